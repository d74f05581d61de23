"use strict";
/* Charts, switches, copies and the table of runs. Without scripts or DecompressionStream, the page keeps its pictures
   and tables. */
(async () => {
  const element = (tag, content = "", attributes = {}) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...[content].flat());
    return made;
  };

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  const data = document.getElementById("data").textContent;
  const { theme, charts } = await unpacked(data.trim());
  document.documentElement.classList.add("scripted");

  // Charts: each figure is drawn when it is about to be seen, with the current choices.

  const chosen = {}; // the page's switches, by name
  const drawn = new Map(); // the views of each figure and the state of its legend

  async function draw(figure, chart) {
    const place = figure.querySelector(".views");
    const titles = Object.keys(chart.views);
    place.classList.toggle("several", titles[0] !== ""); // a single view with a title is no wider than its neighbors
    const labels = place.clientWidth > 560; // they need room
    const state = { views: [], parameters: { ...chart.parameters, labels }, choices: chart.choices };
    drawn.set(figure, state);
    const parameters = () => ({ ...state.parameters, ...applied(chart.choices) });
    for (const title of titles) {
      const plot = element("div", "", { className: "plot" });
      place.append(element("div", title ? [element("h4", title), plot] : [plot]));
      const spec = {
        ...chart.views[title],
        width: "container",
        autosize: { type: "fit", contains: "padding" },
        datasets: { rows: chart.rows },
        params: Object.entries(parameters()).map(([name, value]) => ({ name, value })),
      };
      const config = { ...theme, legend: { ...theme.legend, disable: !chart.legend } };
      const tooltip = { disableDefaultStyle: true };
      const result = await vegaEmbed(plot, spec, { mode: "vega-lite", renderer: "svg", actions: false, config, tooltip });
      state.views.push(result.view);
    }
    figure.classList.add("drawn");
    for (const view of state.views) update(view, parameters()); // choices may have changed while it was drawn
  }

  // The choices that a chart knows; for the others, its first value.
  function applied(choices) {
    const value = ([name, known]) => [name, known.includes(chosen[name]) ? chosen[name] : known[0]];
    return Object.fromEntries(Object.entries(choices).map(value));
  }

  function update(view, parameters) {
    for (const [name, value] of Object.entries(parameters)) view.signal(name, value);
    view.runAsync();
  }

  function choose(name, value) {
    chosen[name] = value;
    for (const { views, choices } of drawn.values()) for (const view of views) update(view, applied(choices));
    for (const group of document.querySelectorAll(`.switch[data-name="${name}"]`)) {
      const inputs = [...group.querySelectorAll("input")];
      (inputs.find((input) => input.value === value) ?? inputs[0]).checked = true;
    }
    for (const group of document.querySelectorAll(`.choice[data-name="${name}"]`)) {
      const parts = [...group.children];
      const shown = parts.find((part) => part.dataset.value === value) ?? parts[0];
      for (const part of parts) part.hidden = part !== shown;
    }
  }

  for (const group of document.querySelectorAll(".choice")) {
    [...group.children].forEach((part, number) => { part.hidden = number > 0; });
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      draw(target, charts[target.dataset.chart]);
    }
  }, { rootMargin: "400px" });
  for (const figure of document.querySelectorAll("figure[data-chart]")) observer.observe(figure);

  document.addEventListener("change", ({ target }) => {
    const group = target.closest(".switch, .legend");
    if (group?.matches(".switch")) choose(group.dataset.name, target.value);
    if (group?.matches(".legend")) {
      const boxes = [...group.querySelectorAll("input")];
      const parameters = {
        hidden: boxes.filter((box) => box.name !== "whole" && !box.checked).map((box) => box.value),
        whole: boxes.some((box) => box.name === "whole" && box.checked),
      };
      const state = drawn.get(group.closest("figure"));
      Object.assign(state.parameters, parameters);
      for (const view of state.views) update(view, parameters);
    }
  });

  // Copies of a table have its current order and filter.

  const tex = { "\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "±": "$\\pm$", "→": "$\\to$",
    "–": "--" };
  const escaped = (text) => text.replace(/[\\^~±→–%&#_${}]/g, (character) => tex[character] ?? `\\${character}`);
  const formats = {
    markdown: {
      cell: (text) => text.replace(/\|/g, "\\|"),
      bold: (text) => `**${text}**`,
      lines: ([header, ...rows]) =>
        [header, header.map((_, number) => (number ? "---:" : "---")), ...rows].map((row) => `| ${row.join(" | ")} |`),
    },
    latex: {
      cell: escaped,
      bold: (text) => `\\textbf{${text}}`,
      lines: ([header, ...rows]) => {
        const line = (row) => `${row.join(" & ")} \\\\`;
        return [`\\begin{tabular}{l${"r".repeat(header.length - 1)}}`, "\\toprule", line(header), "\\midrule",
          ...rows.map(line), "\\bottomrule", "\\end{tabular}"];
      },
    },
    csv: {
      cell: (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text),
      bold: (text) => text,
      lines: (rows) => rows.map((row) => row.join(",")),
    },
  };

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // some browsers deny files the clipboard
      const area = element("textarea", "", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  document.addEventListener("click", async ({ target }) => {
    const format = formats[target.dataset?.copy];
    if (!format) return;
    const rows = [...target.closest(".table").querySelector("table").rows].filter((row) => !row.hidden);
    const cells = rows.map((row) => [...row.cells].map((cell) => {
      const text = format.cell(cell.textContent.trim());
      return cell.querySelector("b") ? format.bold(text) : text;
    }));
    await copy(`${format.lines(cells).join("\n")}\n`);
    const status = target.parentElement.querySelector("[role=status]");
    status.textContent = "copied";
    setTimeout(() => { status.textContent = ""; }, 2000);
  });

  // The table of runs: sorted by the chosen column, filtered by words.

  const table = document.querySelector("table.sortable");
  if (!table) return;
  const [body] = table.tBodies;
  const headers = [...table.tHead.rows[0].cells];
  const filter = document.getElementById("filter");

  function arrange() {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    const shown = [...body.rows].filter((row) => !row.hidden).length;
    filter.parentElement.querySelector("[role=status]").textContent = `${shown} of ${body.rows.length} runs`;
    const column = headers.findIndex((header) => header.hasAttribute("aria-sort"));
    if (column < 0) return;
    const sign = headers[column].getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const numeric = headers[column].classList.contains("number");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // missing values come last in either order
      return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    };
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  }

  for (const header of headers) {
    const button = element("button", header.textContent, { type: "button" });
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", order);
      arrange();
    });
  }
  filter.addEventListener("input", arrange);
  arrange();

  // A live page: new states replace the table's rows; new results or columns load the page anew.

  const timer = document.body.dataset.live && setInterval(async () => {
    const page = new DOMParser().parseFromString(await (await fetch(location.href, { cache: "no-store" })).text(), "text/html");
    const next = page.querySelector("table.sortable");
    const names = (row) => [...row.cells].map((cell) => cell.textContent).join();
    const same = next && names(next.tHead.rows[0]) === names(table.tHead.rows[0]);
    if (!same || page.getElementById("data").textContent !== data || !page.body.dataset.live) {
      clearInterval(timer);
      location.reload();
    } else {
      body.replaceChildren(...next.tBodies[0].rows);
      document.querySelector(".runs .caption").textContent = page.querySelector(".runs .caption").textContent;
      arrange();
    }
  }, 5000);
})();
