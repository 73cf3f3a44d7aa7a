"use strict";
// The samples: filters, and a viewer whose slider goes over the stages.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const MARKS = { lost: "▼", gained: "▲", reworded: "≈", same: "=" };
  const SVG = "http://www.w3.org/2000/svg"; // the name of a language, not an address
  const DARK = 0.8; // as in the pictures of `python -m rcp show`

  const element = (name, attributes = {}, text = "") => {
    const made = document.createElement(name);
    Object.assign(made, attributes);
    made.textContent = text;
    return made;
  };
  const shape = (name, attributes, ...inside) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  };

  const outcome = (sample, theirs) => {
    if (theirs.score !== sample.full_score) {
      return theirs.score < sample.full_score ? "lost" : "gained";
    }
    return theirs.answer.trim() === sample.full.trim() ? "same" : "reworded";
  };

  // dark but for the survivors, whose cells may overlap where an image is seen at two resolutions
  const shade = (grid, survived, stage, name) => {
    const { width, height } = grid;
    const cells = grid.tokens
      .map((token, at) => [survived[token], grid.x[at] - width / 2, grid.y[at] - height / 2])
      .filter(([stages]) => stages >= stage)
      .map(([, left, top]) => `M${left} ${top}h${width}v${height}h${-width}z`);
    const whole = { x: -1, y: -1, width: 2, height: 2 };
    return shape(
      "svg",
      { viewBox: "-1 -1 2 2", preserveAspectRatio: "none", "aria-hidden": "true" },
      shape(
        "mask",
        { id: name, maskUnits: "userSpaceOnUse", ...whole },
        shape("rect", { ...whole, fill: "white" }),
        shape("path", { d: cells.join(""), fill: "black", "shape-rendering": "crispEdges" })
      ),
      shape("rect", { ...whole, fill: "black", opacity: DARK, mask: `url(#${name})` })
    );
  };

  const explore = (section) => {
    const { samples, grids, contestants } = data[section.dataset.group].gallery;
    const part = (name, within = section) => within.querySelector(`[data-part="${name}"]`);
    const filter = (name) => section.querySelector(`[data-filter="${name}"]`);
    const cards = [...part("cards").children];
    const slider = part("stage");
    let current = -1;

    const contestant = () => contestants[filter("contestant").value];
    const answered = (number) => contestant().answers[number];

    const visible = () => cards
      .filter((card) => !card.hidden)
      .map((card) => Number(card.dataset.sample));

    const paint = () => {
      const sample = samples[current];
      const { survived, layers } = answered(current);
      const stage = Number(slider.value);
      const images = cards.find((card) => Number(card.dataset.sample) === current)
        .querySelectorAll(".thumbnails > *");
      const grid = grids[sample.grid];
      const pictures = Array.from({ length: Math.max(images.length, grid.length) }, (_, at) => {
        const figure = element("div", { className: "picture" });
        if (images[at] && images[at].src) {
          const alt = `Image ${at + 1} of sample ${sample.id}`;
          figure.append(element("img", { src: images[at].src, alt }));
        } else {
          figure.classList.add("blank");
        }
        if (stage > 0 && grid[at]) {
          figure.append(shade(grid[at], survived, stage, `${section.id}-mask-${at}`));
        }
        return figure;
      });
      part("pictures").replaceChildren(...pictures);
      const alive = survived.filter((stages) => stages >= stage).length;
      const said = stage === 0
        ? `Before any stage: all ${sample.tokens} visual tokens`
        : `From layer ${layers[stage - 1]} on: ${alive} of ${sample.tokens} visual tokens`;
      const idle = layers.length ? "" : " (nothing is dropped)";
      part("alive").textContent = said + idle;
      slider.setAttribute("aria-valuetext", said + idle);
    };

    const show = (number) => {
      current = number;
      const sample = samples[number];
      const theirs = answered(number);
      const facts = [
        ["question", sample.question],
        ["type", sample.type],
        ["reference", [...new Set(sample.references)].join(" / ")],
        ["full model", `${sample.full} (score ${sample.full_score})`],
        [contestant().name, `${theirs.answer} (score ${theirs.score})`],
      ];
      if (sample.more_images) facts.push(["not shown", `${sample.more_images} more images`]);
      part("title").textContent = `Sample ${sample.id}`;
      part("facts").replaceChildren(
        ...facts.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)])
      );
      slider.max = theirs.layers.length;
      slider.value = theirs.layers.length; // what survives to the end
      slider.disabled = theirs.layers.length === 0;
      part("viewer").hidden = false;
      for (const card of cards) {
        const pressed = Number(card.dataset.sample) === number;
        card.firstElementChild.setAttribute("aria-pressed", pressed);
      }
      paint();
    };

    const sift = () => {
      for (const card of cards) {
        const number = Number(card.dataset.sample);
        const sample = samples[number];
        const theirs = answered(number);
        const found = theirs ? outcome(sample, theirs) : "";
        card.hidden = !theirs
          || !["", `type:${sample.type}`].includes(filter("type").value)
          || !["", found].includes(filter("outcome").value);
        if (!theirs) continue;
        part("name", card).textContent = contestant().name;
        part("answer", card).textContent = theirs.answer;
        const mark = element("span", { className: `outcome ${found}` }, `${MARKS[found]} ${found}`);
        part("outcome", card).replaceChildren(mark);
      }
      const left = visible();
      part("count").textContent = `${left.length} of ${samples.length} samples`;
      part("viewer").hidden = left.length === 0;
      if (left.length) show(left.includes(current) ? current : left[0]);
    };

    part("cards").addEventListener("click", (event) => {
      const card = event.target.closest("li");
      if (!card) return;
      show(Number(card.dataset.sample));
      part("viewer").scrollIntoView({ block: "nearest" });
    });
    section.addEventListener("click", (event) => {
      const step = Number(event.target.dataset.step);
      if (!step) return;
      const left = visible();
      show(left[(left.indexOf(current) + step + left.length) % left.length]);
    });
    section.querySelector("form").addEventListener("change", sift);
    section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    slider.addEventListener("input", paint);
    sift();
  };

  document.querySelectorAll(".explorer").forEach(explore);
})();
