"use strict";
// Draws figures, and draws them again when the theme or the width changes. A colour written "var(--name)" is the
// page's own. Figures that stand in the page as JSON are drawn at once; scripts may show others in their place.
const plots = (() => {
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif';
  const narrow = matchMedia("(max-width: 40rem)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shown = new Map();
  const config = () => ({
    responsive: true,
    displaylogo: false,
    // On a phone the buttons would lie over the legend.
    ...(narrow.matches ? { displayModeBar: false } : {}),
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  });

  const themed = (value, styles) => {
    if (typeof value === "string") {
      const name = /^var\((--[a-z-]+)\)$/.exec(value);
      return name ? styles.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, styles));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, styles)]));
  };

  const axis = (given) => ({
    gridcolor: "var(--line)",
    linecolor: "var(--line)",
    zerolinecolor: "var(--line)",
    automargin: true,
    ...given,
    ...(given?.title ? { title: { font: { size: narrow.matches ? 11 : 13 }, ...given.title } } : {}),
  });

  const draw = (element, figure) => {
    const layout = {
      font: { family: FONT, size: narrow.matches ? 11 : 13, color: "var(--ink)" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 8, t: narrow.matches ? 12 : 36, b: 8 },
      height: Number(element.dataset.height),
      dragmode: false,
      hoverlabel: { bgcolor: "var(--surface)", bordercolor: "var(--soft)", font: { color: "var(--ink)", family: FONT } },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--soft)", activecolor: "var(--accent)" },
      ...figure.layout,
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
    };
    const styles = getComputedStyle(document.documentElement);
    return Plotly.react(element, themed(figure.data, styles), themed(layout, styles), config());
  };

  // Shows a figure in the place of the element's last one. A hidden element has no width: it is drawn when it appears.
  const show = (element, figure) => {
    shown.set(element, figure);
    if (element.offsetParent !== null) draw(element, figure);
  };
  const given = (element) => JSON.parse(document.getElementById(element.dataset.figure).textContent);
  const redraw = () => shown.forEach((figure, element) => show(element, figure));

  for (const element of document.querySelectorAll(".plot[data-figure]")) {
    const figure = given(element);
    if (element.dataset.minWidth !== "0") element.style.minWidth = `${element.dataset.minWidth}px`;
    const scale = document.querySelector(`[data-log="${element.id}"]`);
    const rescale = () => {
      const { type, dtick, range, ...rest } = figure.layout.yaxis;
      const logarithmic = { type: "log", dtick: "D2", range: JSON.parse(scale.dataset.range) };
      figure.layout.yaxis = scale.checked ? { ...rest, ...logarithmic } : { ...rest, type: "linear" };
      show(element, figure);
    };
    if (scale) {
      scale.addEventListener("change", rescale);
      rescale();
    } else {
      show(element, figure);
    }
  }
  dark.addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);
  // What is folded away is drawn when it is opened; the event does not bubble.
  document.addEventListener("toggle", redraw, true);
  return { show, given, redraw };
})();
