"""Benchmark data sets by name: the published long-tailed ones, and handwritten digits that need no download."""

from tailwise.data.benchmarks.coco_mlt import COCO_MLT
from tailwise.data.benchmarks.digits import DigitScenes, digits
from tailwise.data.benchmarks.long_tail import BenchmarkData, LongTailBenchmark, build_benchmark, read_pool
from tailwise.data.benchmarks.voc_mlt import VOC_MLT

BENCHMARKS: dict[str, LongTailBenchmark] = {benchmark.name: benchmark for benchmark in (VOC_MLT, COCO_MLT)}

__all__ = [
    "BENCHMARKS",
    "COCO_MLT",
    "VOC_MLT",
    "BenchmarkData",
    "DigitScenes",
    "LongTailBenchmark",
    "build_benchmark",
    "digits",
    "read_pool",
]
