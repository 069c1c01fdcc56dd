"use strict";
// What the reader can choose on a page of results: methods, a class, a threshold.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("page-data").textContent);
  const boxes = [...document.querySelectorAll(".picker input")];
  const chosen = new Set(data.methods.flatMap((method, place) => (method.chosen || !boxes.length ? [place] : [])));
  const figures = new Map();
  let classIndex = data.first;

  // Figures whose traces belong to methods, as they stand in the page.
  for (const id of ["class-precision", "threshold-curves", "gains"]) {
    const element = byId(id);
    if (element) figures.set(id, plots.given(element));
  }

  const showTraces = (id, keep, change = (trace) => trace, layout = {}) => {
    const figure = figures.get(id);
    if (!figure) return;
    const kept = figure.data.filter((trace) => keep(trace.meta.method));
    plots.show(byId(id), { data: kept.map(change), layout: { ...figure.layout, ...layout } });
  };

  // Side by side at each class, so that intervals do not hide each other.
  const showClasses = () => {
    const places = [...chosen].sort((a, b) => a - b);
    const step = Math.min(0.2, 0.7 / Math.max(places.length, 1));
    const shift = (place) => (places.indexOf(place) - (places.length - 1) / 2) * step;
    const spread = (trace) => ({ ...trace, x: trace.x.map((x) => x + shift(trace.meta.method)) });
    showTraces("class-precision", (place) => chosen.has(place), spread, { showlegend: places.length > 1 });
  };

  const showCurves = () => {
    const element = byId("class-plot");
    if (!element || classIndex === null) return;
    const [name, positives] = [data.classes[classIndex], data.positives[classIndex]];
    byId("class-title").textContent = `${name}: ${positives.toLocaleString("en")} positive test images`;
    const guess = positives / data.known[classIndex];
    const traces = [...chosen]
      .filter((place) => place in data.points)
      .sort((a, b) => a - b)
      .map((place) => {
        const [hits, predicted] = data.points[place][classIndex];
        return {
          type: "scatter",
          mode: hits.length > 60 ? "lines" : "lines+markers",
          name: escaped(data.methods[place].name),
          x: hits.map((count) => count / positives),
          y: hits.map((count, point) => count / predicted[point]),
          line: { color: data.methods[place].color, width: 2 },
          marker: { color: data.methods[place].color, symbol: data.methods[place].symbol, size: 5 },
          hovertemplate: "recall %{x:.2f}, precision %{y:.2f}<extra>%{fullData.name}</extra>",
        };
      });
    const layout = {
      hovermode: "closest",
      showlegend: traces.length > 1,
      xaxis: { title: { text: "recall" }, range: [0, 1.02], zeroline: false },
      yaxis: { title: { text: "precision" }, range: [0, 1.04], zeroline: false },
      shapes: [{ type: "line", x0: 0, x1: 1, y0: guess, y1: guess, line: { color: "var(--soft)", width: 1, dash: "dash" } }],
    };
    plots.show(element, { data: traces, layout });
  };

  const threshold = byId("threshold");
  const showThreshold = () => {
    if (!threshold) return;
    const place = Number(threshold.value);
    const level = place / Number(threshold.max);
    byId("threshold-value").textContent = level.toFixed(3);
    for (const trace of figures.get("threshold-curves").data) {
      const measure = trace.name.split(" ", 1)[0];
      const cell = document.querySelector(`#threshold-table [data-method="${trace.meta.method}"] [data-measure=${measure}]`);
      cell.textContent = trace.y[place] === null ? "–" : trace.y[place].toFixed(2);
    }
    const line = { type: "line", yref: "paper", x0: level, x1: level, y0: 0, y1: 1, line: { color: "var(--ink)", width: 1.5 } };
    showTraces("threshold-curves", (method) => chosen.has(method), undefined, { shapes: [line] });
  };

  const showGains = () => {
    const select = byId("gain-method");
    if (select) showTraces("gains", (place) => place === Number(select.value));
  };

  const showMethods = () => {
    for (const part of document.querySelectorAll("div[data-method], #threshold-table tr[data-method]")) {
      part.hidden = !chosen.has(Number(part.dataset.method));
    }
    const names = byId("chosen-names");
    if (names) names.textContent = [...chosen].sort((a, b) => a - b).map((place) => data.methods[place].name).join(", ") || "none";
    tables.get("class-table")?.hide(new Set(Object.keys(data.methods).filter((place) => !chosen.has(Number(place)))));
    plots.redraw();
    showClasses();
    showCurves();
    showThreshold();
  };

  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const pickClass = (index) => {
    if (!(data.positives?.[index] && data.known[index] > data.positives[index])) return;
    classIndex = index;
    tables.get("class-table").pick(data.order.indexOf(index));
    showCurves();
    byId("class-curves").scrollIntoView({ block: "nearest" });
  };

  for (const box of boxes) {
    const place = Number(box.dataset.method);
    box.checked = chosen.has(place);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(place);
      else chosen.delete(place);
      showMethods();
    });
  }
  threshold?.addEventListener("input", showThreshold);
  byId("gain-method")?.addEventListener("change", showGains);
  byId("reference")?.addEventListener("change", (event) => {
    for (const part of document.querySelectorAll("[data-reference]")) {
      part.hidden = part.dataset.reference !== event.target.value;
    }
    plots.redraw();
  });
  showMethods();
  showGains();
  if (byId("class-plot")) {
    tables.get("class-table").onPick((row) => pickClass(data.order[row]));
    for (const id of ["class-precision", "gains"]) {
      byId(id)?.on?.("plotly_click", (event) => pickClass(event.points[0].customdata));
    }
    if (classIndex !== null) tables.get("class-table").pick(data.order.indexOf(classIndex));
  }
})();
