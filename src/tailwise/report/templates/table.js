"use strict";
// Tables whose rows stand in the page as JSON: sorting by any column, a filter, and only as many rows in the document
// as somebody looks at.
(() => {
  const STEP = 200;
  const LONG = 24;
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const whole = new Intl.NumberFormat("en");
  const decimal = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const percent = (share) => {
    if (share === 0 || share === 1) return `${100 * share}%`;
    if (share < 0.0001) return "<0.01%";
    return share < 0.01 ? `${Number((100 * share).toPrecision(2))}%` : `${Math.min(100 * share, 99.9).toFixed(1)}%`;
  };
  const FORMATS = {
    text: String,
    group: String,
    count: (value) => whole.format(value),
    decimal: (value) => decimal.format(value),
    percent,
  };
  const isWords = (kind) => kind === "text" || kind === "group";

  const cell = (value, kind) => {
    const element = document.createElement("td");
    element.className = kind;
    if (kind === "text" && value !== null && value.length > LONG) element.classList.add("long");
    if (value === null) {
      element.textContent = "–";
    } else if (kind === "group") {
      const mark = document.createElement("span");
      mark.dataset.group = value;
      mark.textContent = value;
      element.append(mark);
    } else {
      element.textContent = FORMATS[kind](value);
    }
    return element;
  };

  const compare = (a, b, kind) => (isWords(kind) ? collator.compare(a, b) : a - b);

  const start = (box) => {
    const rows = JSON.parse(document.getElementById(box.dataset.rows).textContent);
    const heads = [...box.querySelectorAll("th")];
    const kinds = heads.map((head) => head.dataset.kind);
    const body = box.querySelector("tbody");
    const filter = box.querySelector("input[type=search]");
    const status = box.querySelector("output");
    const more = box.querySelector(".more");
    const words = rows.map((row) => row.filter((_, index) => isWords(kinds[index])).join("\n").toLowerCase());
    let order = rows.map((_, index) => index);
    let matching = order;
    let shown = STEP;

    const show = () => {
      const visible = matching.slice(0, shown);
      body.replaceChildren(
        ...visible.map((index) => {
          const line = document.createElement("tr");
          line.append(...rows[index].map((value, column) => cell(value, kinds[column])));
          return line;
        }),
      );
      const all = visible.length === rows.length;
      const matches = matching.length === rows.length ? "" : `${whole.format(matching.length)} match; `;
      const total = `${whole.format(rows.length)} row${rows.length === 1 ? "" : "s"}`;
      if (status) status.textContent = all ? total : `${matches}showing ${whole.format(visible.length)} of ${total}`;
      const left = matching.length - visible.length;
      more.hidden = left === 0;
      more.textContent = `Show ${whole.format(Math.min(left, STEP))} more`;
    };

    const choose = () => {
      const wanted = filter ? filter.value.trim().toLowerCase() : "";
      matching = wanted ? order.filter((index) => words[index].includes(wanted)) : order;
      shown = STEP;
      show();
    };

    const sort = (column, ascending) => {
      const kind = kinds[column];
      const sign = ascending ? 1 : -1;
      order = rows.map((_, index) => index);
      order.sort((a, b) => {
        const [left, right] = [rows[a][column], rows[b][column]];
        if (left === null || right === null) return (left === null) - (right === null);
        return sign * compare(left, right, kind);
      });
      heads.forEach((head, index) => {
        if (index === column) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
      choose();
    };

    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const current = head.getAttribute("aria-sort");
        sort(column, current ? current === "descending" : isWords(kinds[column]));
      });
    });
    if (filter) filter.addEventListener("input", choose);
    more.addEventListener("click", () => {
      shown += STEP;
      show();
    });
    if (box.dataset.sort === "-1") choose();
    else sort(Number(box.dataset.sort), "ascending" in box.dataset);
  };

  for (const box of document.querySelectorAll(".table")) start(box);
})();
