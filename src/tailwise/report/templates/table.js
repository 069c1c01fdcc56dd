"use strict";
// Tables whose rows stand in the page as JSON: sorting by any column, a filter, and only as many rows in the document
// as somebody looks at. Columns of a series can be hidden, and rows chosen.
const tables = (() => {
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
  const signed = (value) => (value < 0 ? "−" : "+") + decimal.format(Math.abs(value));
  const between = (low, high, format) => (low === null || high === null ? "" : `${format(low)} to ${format(high)}`);
  // What a cell says: its value, and in smaller letters how sure it is.
  const FORMATS = {
    text: (value) => [value],
    named: ([name, detail]) => [name, detail],
    group: (value) => [value],
    count: (value) => [whole.format(value)],
    decimal: (value) => [decimal.format(value)],
    percent: (value) => [percent(value)],
    spread: ([mean, deviation]) => [decimal.format(mean), deviation === null ? "" : `± ${decimal.format(deviation)}`],
    interval: ([value, low, high]) => [value.toFixed(1), between(low, high, (end) => end.toFixed(0))],
    difference: ([value, low, high]) => [signed(value), between(low, high, signed)],
  };
  const isWords = (kind) => kind === "text" || kind === "named" || kind === "group";
  const first = (value) => (Array.isArray(value) ? value[0] : value);
  const leavesZeroOut = ([, low, high]) => low !== null && high !== null && low * high > 0;

  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  const cell = (value, kind) => {
    const made = element("td", undefined, kind);
    if (kind === "text" && value !== null && value.length > LONG) made.classList.add("long");
    if (value === null) {
      made.textContent = "–";
      return made;
    }
    const [text, detail] = FORMATS[kind](value);
    if (kind === "group") {
      const mark = element("span", text);
      mark.dataset.group = value;
      made.append(mark);
    } else if (kind === "difference" && leavesZeroOut(value)) {
      made.append(element("strong", text));
    } else {
      made.append(text);
    }
    if (detail) made.append(" ", element("small", detail));
    return made;
  };

  const compare = (a, b, kind) => (isWords(kind) ? collator.compare(a, b) : a - b);

  const start = (box) => {
    const name = box.querySelector("table").id;
    const rows = JSON.parse(document.getElementById(box.dataset.rows).textContent);
    const heads = [...box.querySelectorAll("th")];
    const kinds = heads.map((head) => head.dataset.kind);
    const body = box.querySelector("tbody");
    const filter = box.querySelector("input[type=search]");
    const status = box.querySelector("output");
    const more = box.querySelector(".more");
    const failed = JSON.parse(document.getElementById(`${name}-failed`)?.textContent ?? "{}");
    let hidden = new Set();
    let picked = null;
    let whenPicked = () => {};
    const words = rows.map((row) => row.filter((_, index) => isWords(kinds[index])).flat().join("\n").toLowerCase());
    let order = rows.map((_, index) => index);
    let matching = order;
    let shown = STEP;

    const isVisible = (_, column) => !hidden.has(heads[column].dataset.series);
    const makePickable = (line, index) => {
      const button = element("button", rows[index][0]);
      button.type = "button";
      button.setAttribute("aria-label", `${box.dataset.picks} ${rows[index][0]}`);
      button.setAttribute("aria-pressed", index === picked);
      line.firstChild.replaceChildren(button);
      line.classList.toggle("picked", index === picked);
      line.addEventListener("click", () => whenPicked(index));
    };

    const show = () => {
      const visible = matching.slice(0, shown);
      body.replaceChildren(
        ...visible.map((index) => {
          const line = document.createElement("tr");
          if (index in failed) {
            line.className = "failed";
            const rest = element("td", undefined, "text");
            rest.colSpan = heads.length - 1;
            rest.append(element("span", `failed: ${failed[index]}`));
            line.append(cell(rows[index][0], kinds[0]), rest);
            return line;
          }
          line.append(...rows[index].map((value, column) => cell(value, kinds[column])).filter(isVisible));
          if ("picks" in box.dataset) makePickable(line, index);
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
        const [left, right] = [first(rows[a][column]), first(rows[b][column])];
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
    return {
      // Hides the columns of these series, named as strings.
      hide: (series) => {
        hidden = series;
        heads.forEach((head, column) => (head.hidden = !isVisible(head, column)));
        show();
      },
      // Marks a row, by its place in the data.
      pick: (index) => {
        picked = index;
        const focused = body.contains(document.activeElement);
        show();
        if (focused) body.querySelector(".picked button")?.focus();
      },
      onPick: (handler) => (whenPicked = handler),
    };
  };

  return new Map([...document.querySelectorAll(".table")].map((box) => [box.querySelector("table").id, start(box)]));
})();
