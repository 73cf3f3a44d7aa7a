"use strict";
// Draws what page/charts.py describes, with Chart.js. A contestant has one colour, one shape and one
// kind of line in all charts, by its number among the contestants.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const SHAPES = ["circle", "rect", "triangle", "rectRot", "cross", "crossRot", "star"];
  const GLYPHS = ["●", "■", "▲", "◆", "✚", "✖", "✱"];
  const DASHES = [[], [7, 3], [2, 2], [9, 3, 2, 3]];
  const COLOURS = 5;
  const GREATEST_DEPTH_WITH_POINTS = 40;

  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color; // of a pair, the one that holds now
  };

  // the full model is hollow, so that whoever equals it is seen inside
  const style = (number) => {
    const own = colour(`series-${number % COLOURS}`);
    return {
      borderColor: own,
      backgroundColor: number === 0 ? "transparent" : own,
      borderDash: DASHES[number % DASHES.length],
      pointStyle: SHAPES[number % SHAPES.length],
      borderWidth: 2,
      pointBorderWidth: 2,
    };
  };

  const radius = (number) => (number === 0 ? 8 : 5);

  const axis = (title, more = {}) => ({
    title: { display: true, text: title, color: colour("ink") },
    ticks: { color: colour("muted"), maxRotation: 0 },
    grid: { color: colour("line") },
    ...more,
  });

  // the ends of an interval are points, too, drawn as short lines
  const scatter = (chart, numbered) => ({
    datasets: chart.points.map((point) => {
      const look = style(numbered(point.name));
      const ends = point.interval || [];
      const heights = ends.length ? [ends[0], point.y, ends[1]] : [point.y];
      return {
        ...look,
        label: point.name,
        data: heights.map((y) => ({ x: point.x, y })),
        borderDash: [],
        borderWidth: 1,
        clip: false,
        pointStyle: ends.length ? ["line", look.pointStyle, "line"] : look.pointStyle,
        pointRadius: ends.length ? [4, 6, 4] : radius(numbered(point.name)),
      };
    }),
  });

  const dots = (chart, numbered) => ({
    labels: chart.labels,
    datasets: chart.series.map((series) => ({
      ...style(numbered(series.name)),
      label: series.name,
      data: series.values,
      showLine: false,
      clip: false,
      pointRadius: radius(numbered(series.name)),
    })),
  });

  const lines = (chart, numbered) => ({
    labels: chart.labels,
    datasets: chart.series.map((series, at) => ({
      ...style(numbered(series.name, at)),
      label: series.name,
      data: series.values,
      stepped: chart.stepped ? "middle" : false,
      pointRadius: chart.labels.length > GREATEST_DEPTH_WITH_POINTS ? 0 : 3,
      pointBorderWidth: 1,
    })),
  });

  const KINDS = {
    scatter: (chart, numbered) => ({
      type: "line",
      data: scatter(chart, numbered),
      options: {
        scales: {
          x: axis(chart.x, { type: "linear", beginAtZero: true }),
          y: axis(chart.y, chart.y.endsWith("%") ? { max: 100 } : {}),
        },
        interaction: { mode: "nearest", intersect: true },
      },
    }),
    dots: (chart, numbered) => ({
      type: "line",
      data: dots(chart, numbered),
      options: {
        indexAxis: "y",
        scales: { x: axis(chart.x), y: axis("", { type: "category", offset: true }) },
        interaction: { mode: "nearest", intersect: true },
      },
    }),
    lines: (chart, numbered) => ({
      type: "line",
      data: lines(chart, numbered),
      options: {
        scales: {
          x: axis(chart.x),
          y: axis(chart.y, chart.logarithmic
            ? { type: "logarithmic" }
            : { type: "linear", beginAtZero: true }),
        },
        interaction: { mode: "index", intersect: false },
      },
    }),
  };

  const ticked = (group) => new Map(
    [...document.querySelectorAll(`.evaluation[data-group="${group}"] [data-contestant]`)].map(
      (box) => [box.dataset.contestant, box.checked]
    )
  );

  const drawn = new Map();
  const draw = () => {
    drawn.forEach((chart) => chart.destroy());
    for (const canvas of document.querySelectorAll("canvas[data-chart]")) {
      const { group, chart: name } = canvas.dataset;
      const { charts, contestants } = data[group];
      const numbered = (who, at) => (contestants.includes(who) ? contestants.indexOf(who) : at + 1);
      const config = KINDS[charts[name].kind](charts[name], numbered);
      const legend = {
        display: contestants.length === 0, // those have theirs beside the charts
        labels: { color: colour("ink"), usePointStyle: true },
      };
      Object.assign(config.options, {
        animation: false,
        maintainAspectRatio: false,
        layout: { padding: 8 },
        plugins: { legend },
      });
      const shown = ticked(group);
      for (const dataset of config.data.datasets) {
        dataset.hidden = shown.get(dataset.label) === false;
      }
      if (charts[name].kind === "dots") {
        canvas.parentElement.style.height = `${4 + 2 * charts[name].labels.length}rem`;
      }
      drawn.set(canvas, new Chart(canvas, config));
    }
  };

  const choose = () => {
    drawn.forEach((chart, canvas) => {
      const shown = ticked(canvas.dataset.group);
      chart.data.datasets.forEach((dataset, at) => {
        chart.setDatasetVisibility(at, shown.get(dataset.label) !== false);
      });
      chart.update();
    });
  };

  for (const glyph of document.querySelectorAll("[data-glyph]")) {
    const number = Number(glyph.dataset.glyph);
    glyph.textContent = number === 0 ? "○" : GLYPHS[number % GLYPHS.length];
    glyph.style.color = `var(--series-${number % COLOURS})`;
  }
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-contestant]")) choose();
  });
  document.addEventListener("theme", draw);
  draw();
})();
