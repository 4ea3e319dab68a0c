"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const figure = JSON.parse(plot.previousElementSibling.textContent);
  Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
}
