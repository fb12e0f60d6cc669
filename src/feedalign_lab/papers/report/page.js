// Sorting, filtering, and what rows open to. Text from the records only ever goes in as text, never as markup.
(() => {
  const { make, known, brief, chart, chooser } = curves;
  const dataOf = (id) => JSON.parse(document.getElementById(id).textContent);

  function compare(a, b, sign) {
    // What has no number stands last, whichever way the others are sorted.
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number(a) - Number(b);
    return sign * (Number.isNaN(difference) ? a.localeCompare(b, "en", { numeric: true }) : difference);
  }

  function sortable(table) {
    const bodies = [...table.tBodies], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const button = make("button", null, { type: "button" }, head.textContent);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const order = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
        const sign = order === "descending" ? -1 : 1, value = (body) => body.rows[0].cells[place].dataset.value;
        const sorted = order === "none" ? bodies
          : [...bodies].sort((a, b) => compare(value(a), value(b), sign));
        table.append(...sorted);
      });
    });
  }

  function openable(details) {
    let data = null;
    for (const body of details.querySelectorAll("tbody")) {
      const row = body.rows[0], name = row.querySelector(".name");
      const button = make("button", null, { type: "button", class: "name", "aria-expanded": "false" });
      button.append(...name.childNodes);
      name.replaceWith(button);
      row.addEventListener("click", (event) => {
        if (!button.contains(event.target) && String(getSelection())) return;
        data ??= dataOf(`data-${details.id}`);
        const isOpen = button.getAttribute("aria-expanded") === "true";
        button.setAttribute("aria-expanded", String(!isOpen));
        if (isOpen) return body.rows[1].remove();
        const opened = make("td", make("tr", body, { class: "opened" }), { colspan: row.cells.length });
        fill(make("div", opened, { class: "inside" }), data[Number(body.dataset.row)]);
      });
    }
  }

  function fill(inside, found) {
    const left = make("div", inside), right = make("div", inside);
    if (found.panels.length) chooser(left, found.panels, found.seconds);
    else make("p", left, {}, "No trial is on file, so there are no learning curves.");
    if (found.trials.length) {
      make("h4", left, {}, "Trials");
      const table = make("table", make("div", left, { class: "wide" }), { class: "trials" });
      const head = make("tr", make("thead", table)), body = make("tbody", table);
      const names = ["trial", "value", "epochs", "seconds", "in lock-step", "ended", "status"];
      names.forEach((name) => make("th", head, { scope: "col" }, name));
      for (const one of found.trials) {
        const line = make("tr", body);
        const seconds = known(one.seconds) ? one.seconds.toFixed(1) : "–";
        [one.trial, brief(one.value), one.epochs, seconds, one.stacked, one.ended, one.status]
          .forEach((value) => make("td", line, {}, String(value)));
      }
    }
    facts(right, "The cell", found.about);
    facts(right, "Settings on file", found.settings);
    facts(right, "Where it ran", found.environment);
  }

  function facts(parent, title, pairs) {
    if (!pairs.length) return;
    make("h4", parent, {}, title);
    const list = make("dl", parent, { class: "facts" });
    for (const [name, value] of pairs) { make("dt", list, {}, name); make("dd", list, {}, value); }
  }

  function filters(form, tables) {
    const boxes = [...form.querySelectorAll("input[type=checkbox]")], find = form.querySelector("input[type=search]");
    const shown = form.querySelector("output");
    const apply = (mayOpen) => {
      const words = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      const wanted = find.value.trim().toLowerCase().split(/\s+/);
      let number = 0, all = 0;
      for (const table of tables) {
        let here = 0;
        for (const body of table.querySelectorAll("tbody[data-row]")) {
          body.hidden = !words.has(body.dataset.verdict) || !wanted.every((word) => body.dataset.text.includes(word));
          here += body.hidden ? 0 : 1;
          all += 1;
        }
        table.hidden = here === 0;
        if (mayOpen && here && find.value.trim()) table.open = true;
        number += here;
      }
      shown.textContent = number === all ? `${all} cells` : `${number} of ${all} cells`;
    };
    boxes.forEach((box) => box.addEventListener("change", () => apply(false)));
    find.addEventListener("input", () => apply(true));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    apply(false);
  }

  function openWanted() {
    const wanted = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (wanted instanceof HTMLDetailsElement) wanted.open = true;
  }

  const tables = [...document.querySelectorAll("details.table")];
  for (const details of tables) { sortable(details.querySelector("table.rows")); openable(details); }
  for (const details of document.querySelectorAll("details.panels")) {
    details.addEventListener("toggle", () => {
      for (const panel of dataOf(details.dataset.from)) {
        const place = make("div", details, { class: "panel" });
        make("h4", place, {}, panel.title);
        chart(place, panel);
      }
    }, { once: true });
  }
  filters(document.getElementById("filters"), tables);
  addEventListener("hashchange", openWanted);
  addEventListener("beforeprint", () => { for (const details of tables) details.open = true; });
  openWanted();
})();
