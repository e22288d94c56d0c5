// For pages that work without it: tables sort on a click on a column's head, and a slider moves through slices.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      const key = (row) => {
        const text = row.cells[column].textContent.trim().replace("−", "-");
        return row.cells[column].dataset.value ?? text;
      };
      const numbers = [...body.rows].every((row) => !(key(row) && Number.isNaN(parseFloat(key(row)))) ||
        key(row) === "–");
      const order = (x, y) => (numbers ? (parseFloat(x) || 0) - (parseFloat(y) || 0) : x.localeCompare(y));
      body.append(...[...body.rows].sort((x, y) => (down ? 1 : -1) * order(key(x), key(y))));
    });
  });
}
for (const scroller of document.querySelectorAll(".scroller")) {
  const input = scroller.querySelector("input");
  const count = Number(input.max) + 1;
  input.parentElement.hidden = false;
  input.addEventListener("input", () => {
    for (const image of scroller.querySelectorAll(".frames img")) image.style.transform =
      `translateX(${(-100 * input.value) / count}%)`;
    scroller.querySelector("output").textContent = `${Number(input.value) + 1} of ${count}`;
  });
}
// A link of the contents unfolds what it leads to.
addEventListener("hashchange", () => {
  document.getElementById(location.hash.slice(1))?.querySelector("details")?.setAttribute("open", "");
});
