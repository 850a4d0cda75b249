(function () {
  "use strict";
  var steps = JSON.parse(document.getElementById("steps").textContent);
  var input = document.getElementById("alpha"), shown = document.getElementById("shown"), marker = document.getElementById("marker");
  function show() {
    var step = steps[Number(input.value)];
    shown.replaceChildren();
    step.words.forEach(function (text, i) {
      var line = document.createElement(i ? "span" : "b");
      line.textContent = text;
      shown.append(line, document.createElement("br"));
    });
    input.setAttribute("aria-valuetext", step.words.join("; "));
    marker.style.left = 100 * step.place + "%";
  }
  input.addEventListener("input", show);
  document.getElementById("slider").hidden = false;
  marker.hidden = false;
  show();
})();
