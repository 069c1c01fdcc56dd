"""The published long-tailed benchmarks by name."""

from tailwise.data.benchmarks.benchmark import BenchmarkData, LongTailBenchmark, build_benchmark, read_pool
from tailwise.data.benchmarks.coco_mlt import COCO_MLT
from tailwise.data.benchmarks.voc_mlt import VOC_MLT

BENCHMARKS: dict[str, LongTailBenchmark] = {benchmark.name: benchmark for benchmark in (VOC_MLT, COCO_MLT)}

__all__ = [
    "BENCHMARKS",
    "COCO_MLT",
    "VOC_MLT",
    "BenchmarkData",
    "LongTailBenchmark",
    "build_benchmark",
    "read_pool",
]
