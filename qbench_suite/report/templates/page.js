"use strict";

// Rows that a table shows before it is asked for all.
const FIRST = 15;
// A value beyond all bounds is the text "inf" or "-inf", as JSON has no such number.
const BEYOND = { inf: Infinity, "-inf": -Infinity };

// Classes of the marks of compliance.
const MARKS = { "✓": "yes", "✗": "no", "–": "unseen" };

function number(value) {
  if (typeof value === "number") return value;
  return value in BEYOND ? BEYOND[value] : null;
}

function written(value, column) {
  if (value === null || value === "") return "";
  const amount = column.kind === "number" ? number(value) : null;
  if (amount === null) return String(value);
  if (!Number.isFinite(amount)) return amount > 0 ? "∞" : "−∞";
  const text = column.digits === null
    ? String(Number(amount.toPrecision(3)))
    : amount.toLocaleString("en", { minimumFractionDigits: column.digits, maximumFractionDigits: column.digits });
  return text.replace(/^-/, "−");
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A long name may go on in the next line after its signs.
function broken(text, column) {
  if (column.kind !== "text") return [text];
  return text.split(/(?<=[_.\-/:@])/).flatMap((part, index) => (index ? [element("wbr"), part] : [part]));
}

// Empty cells come last, whichever way a column is sorted.
function compare(a, b, column, sign) {
  const empty = (a === null || a === "") - (b === null || b === "");
  if (empty) return empty;
  if (column.kind === "number") return sign * (number(a) - number(b) || 0);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

class Grid {
  constructor(box) {
    const { columns, rows, notes, details } = JSON.parse(box.querySelector("script").textContent);
    this.columns = columns;
    this.rows = rows.map((cells, index) => ({
      cells,
      notes: notes ? notes[index] : [],
      details: details ? details[index] : null,
      words: cells.concat(notes ? notes[index] : [], details ? details[index].flat() : []).join(" ").toLowerCase(),
    }));
    this.count = box.querySelector(".count");
    this.body = element("tbody");
    this.units = columns.some((column) => column.unit);
    this.heads = columns.map((column, index) => this.head(column, index));
    const opener = details ? [element("th", { scope: "col" }, element("span", { class: "skip" }, "more"))] : [];
    const head = element("thead", {}, element("tr", {}, ...opener, ...this.heads));
    box.querySelector(".scroll").replaceChildren(element("table", { class: "data" }, head, this.body));
    this.all = element("button", { type: "button", class: "all" }, `Show all ${rows.length}`);
    this.all.addEventListener("click", () => { this.whole = true; this.show(); });
    this.whole = rows.length <= FIRST + 5;
    box.append(this.all);
    const filter = box.querySelector("input");
    if (filter) filter.addEventListener("input", () => this.filter(filter.value));
    this.rows.forEach((row) => this.build(row));
    this.show();
  }

  head(column, index) {
    const button = element("button", { type: "button" }, column.label);
    button.addEventListener("click", () => this.sort(index));
    const unit = this.units ? [element("small", {}, column.unit)] : [];
    const kind = column.kind === "number" ? "num" : "";
    return element("th", { scope: "col", class: column.wide ? `${kind} wide` : kind }, button, ...unit);
  }

  build(row) {
    const cells = row.cells.map((value, index) => {
      const column = this.columns[index];
      const text = written(value, column);
      const kind = { number: "num", state: MARKS[text] || text, text: "text" }[column.kind];
      const note = row.notes[index] ? [element("small", {}, row.notes[index])] : [];
      return element("td", { class: column.wide ? `${kind} wide` : kind }, ...broken(text, column), ...note);
    });
    row.nodes = [element("tr", { class: "row" }, ...cells)];
    if (!row.details) return;
    const button = element("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": "more" });
    button.addEventListener("click", () => this.toggle(row, button));
    row.nodes[0].prepend(element("td", {}, button));
  }

  toggle(row, button) {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    if (!open) row.nodes.pop().remove();
    else {
      const hidden = this.columns.flatMap((column, index) => this.narrow(column, row.cells[index]));
      const list = element("dl", {}, ...hidden, ...row.details.flatMap(([label, value]) => this.detail(label, value)));
      const more = element("tr", { class: "more" }, element("td", { colspan: this.columns.length + 1 }, list));
      row.nodes[0].after(more);
      row.nodes.push(more);
    }
  }

  // What a narrow screen has no column for.
  narrow(column, value) {
    const text = column.wide ? written(value, column) : "";
    const label = column.unit ? `${column.label} (${column.unit})` : column.label;
    return text ? [element("dt", { class: "narrow" }, label), element("dd", { class: "narrow" }, text)] : [];
  }

  detail(label, value) {
    let shown = [value];
    if (label === "report") shown = [element("a", { href: value.split("/").map(encodeURIComponent).join("/") }, "text report")];
    if (label === "command") {
      const code = element("code", {}, value);
      const copy = element("button", { type: "button", class: "copy" }, "Copy");
      copy.addEventListener("click", () => this.copy(code, copy));
      shown = [code, copy];
    }
    return [element("dt", {}, label), element("dd", {}, ...shown)];
  }

  // A page opened as a file may not be given the clipboard: then the text is selected instead.
  async copy(code, button) {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  }

  sort(index) {
    const before = this.heads[index].getAttribute("aria-sort");
    const first = this.columns[index].kind === "number" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first;
    this.heads.forEach((head) => head.removeAttribute("aria-sort"));
    this.heads[index].setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    this.rows.sort((a, b) => compare(a.cells[index], b.cells[index], this.columns[index], sign));
    this.show();
  }

  filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.rows.forEach((row) => { row.hidden = !words.every((word) => row.words.includes(word)); });
    this.show();
  }

  show() {
    const found = this.rows.filter((row) => !row.hidden);
    const shown = this.whole ? found : found.slice(0, FIRST);
    this.body.replaceChildren(...shown.flatMap((row) => row.nodes));
    this.all.hidden = shown.length === found.length;
    this.count.textContent = found.length === this.rows.length ? "" : `${found.length} of ${this.rows.length}`;
  }
}

// The cell of a heatmap under the pointer, read from the table of its values.
function watch(figure) {
  const image = figure.querySelector("svg image");
  const table = figure.querySelector("table");
  const readout = figure.querySelector(".readout");
  if (!image || !table) return;
  const heads = table.tHead.rows[0].cells;
  const rows = table.tBodies[0].rows;
  const svg = image.ownerSVGElement;
  svg.addEventListener("pointermove", (event) => {
    const box = image.getBoundingClientRect();
    const across = Math.floor(((event.clientX - box.left) / box.width) * (heads.length - 1));
    const down = Math.floor(((event.clientY - box.top) / box.height) * rows.length);
    const row = rows[down];
    const inside = row && across >= 0 && across < heads.length - 1;
    readout.textContent = inside
      ? `${row.cells[0].textContent} · ${heads[across + 1].textContent}: ${row.cells[across + 1].textContent || "not measured"} dB`
      : "\u00a0";
  });
  svg.addEventListener("pointerleave", () => { readout.textContent = "\u00a0"; });
}

document.querySelectorAll("[data-table]").forEach((box) => new Grid(box));
document.querySelectorAll(".heat").forEach(watch);
