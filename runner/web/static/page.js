// The answer follows the form without a click, and prices get sliders. Everything works without this file.
"use strict";

const form = document.querySelector("form.question");
let asking = null;

function address() {
  const pairs = [...new FormData(form)].filter(([, value]) => value !== "");
  const query = new URLSearchParams(pairs).toString();
  return form.getAttribute("action") + (query ? "?" + query : "");
}

// Replace the answer by that of an address; the form stays as it is, with the field that has the focus.
async function show(url) {
  if (asking) asking.abort();
  asking = new AbortController();
  const answer = document.getElementById("answer");
  answer.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(url, { signal: asking.signal, headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    answer.replaceChildren(...page.getElementById("answer").childNodes);
    answer.removeAttribute("aria-busy");
    renew(page.querySelector("fieldset.prices"));
  } catch (error) {
    if (error.name !== "AbortError") window.location.assign(url);
  }
}

// The prices that decide are those of the new answer, unless one of the old is being moved.
function renew(prices) {
  const old = document.querySelector("fieldset.prices");
  if (old && old.contains(document.activeElement)) return;
  if (old) old.remove();
  if (prices) form.querySelector(".send").before(prices);
  sliders();
}

function ask() {
  const url = address();
  window.history.pushState(null, "", url);
  show(url);
}

function sliders() {
  for (const field of document.querySelectorAll("input.usd:not([data-slid])")) {
    field.dataset.slid = "";
    const slider = document.createElement("input");
    slider.type = "range";
    slider.min = field.dataset.least;
    slider.max = field.dataset.most;
    slider.step = "0.01";
    slider.value = field.value || field.dataset.book;
    slider.setAttribute("aria-label", "price of " + field.labels[0].textContent);
    field.after(slider);
    slider.addEventListener("input", () => {
      field.value = slider.value;
    });
    field.addEventListener("input", () => {
      slider.value = field.value || field.dataset.book;
    });
  }
}

if (form) {
  sliders();
  form.addEventListener("change", ask);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  window.addEventListener("popstate", () => window.location.reload());
}
