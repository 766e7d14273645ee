"use strict";
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const cards = [...document.querySelectorAll(".case")];
const imageOf = (card) => data.images[card.dataset.image];

// How bad an image is by the chosen metric: larger is worse, -Infinity (last) where a score is missing.
// `order` is a method, "any" for the worst of all methods, or "1-0" for what method 1 loses against method 0.
function badness(image, metric, order) {
  const sign = data.better[metric] === "lower" ? 1 : -1;
  const of = (method) => {
    const score = image.scores[metric][method];
    return score === null ? -Infinity : sign * score;
  };
  if (order === "any") return Math.max(...image.scores[metric].map((_, method) => of(method)));
  const [method, other] = order.split("-");
  if (other === undefined) return of(method);
  return Math.min(of(method), of(other)) === -Infinity ? -Infinity : of(method) - of(other);
}

function sortCards() {
  const metric = byId("metric").value;
  if (!metric) return;
  const bad = new Map(cards.map((card) => [card, badness(imageOf(card), metric, byId("order").value)]));
  const place = (card) => Number(card.dataset.image);
  cards.sort((a, b) => (bad.get(a) === bad.get(b) ? place(a) - place(b) : bad.get(b) > bad.get(a) ? 1 : -1));
  byId("cards").append(...cards);
  for (const row of document.querySelectorAll(".scores tr[data-metric]"))
    row.classList.toggle("chosen", row.dataset.metric === metric);
}

function filterCards() {
  const wanted = byId("filter").value.trim().toLowerCase();
  for (const card of cards) card.hidden = !imageOf(card).name.toLowerCase().includes(wanted);
  const shown = cards.filter((card) => !card.hidden).length;
  byId("count").value = shown === cards.length ? "" : `${shown} of ${cards.length}`;
}

// Puts a picture (its place among data.panes) on one side of a card.
function show(card, side, pane) {
  const image = imageOf(card);
  const address = image.pictures[pane];
  const picture = card.querySelector(`.${side} img`);
  if (address) picture.src = address;
  picture.alt = `${image.name}: ${data.panes[pane]}`;
  picture.hidden = !address;
  picture.nextElementSibling.hidden = Boolean(address);
  card.querySelector(`select[data-side="${side}"]`).value = pane;
  if (side === "right")
    for (const thumb of card.querySelectorAll(".thumbs a")) thumb.classList.toggle("chosen", thumb.dataset.pane == pane);
}

// A dot's image is marked in every plot.
function mark(event) {
  const image = event.target.dataset?.image;
  for (const dot of document.querySelectorAll("circle.marked")) dot.classList.remove("marked");
  if (image !== undefined)
    for (const dot of document.querySelectorAll(`circle[data-image="${image}"]`)) dot.classList.add("marked");
}

for (const card of cards) {
  const compare = card.querySelector(".compare");
  compare.querySelector("input").addEventListener("input", (event) => {
    compare.style.setProperty("--at", `${event.target.value}%`);
  });
  for (const choice of card.querySelectorAll("select"))
    choice.addEventListener("change", () => show(card, choice.dataset.side, choice.value));
  for (const thumb of card.querySelectorAll(".thumbs a"))
    thumb.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens the picture itself
      event.preventDefault();
      show(card, "right", thumb.dataset.pane);
    });
  show(card, "right", card.querySelector('select[data-side="right"]').value);
}
for (const choice of document.querySelectorAll("#controls select[data-side]"))
  choice.addEventListener("change", () => cards.forEach((card) => show(card, choice.dataset.side, choice.value)));
byId("metric").addEventListener("change", sortCards);
byId("order").addEventListener("change", sortCards);
byId("filter").addEventListener("input", filterCards);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("pixelated").addEventListener("change", (event) => {
  byId("cards").classList.toggle("pixelated", event.target.checked);
});
document.querySelector(".plots").addEventListener("pointerover", mark);
// A dot may lead to an image that the filter hides.
window.addEventListener("hashchange", () => {
  byId("filter").value = "";
  filterCards();
  document.querySelector(":target")?.scrollIntoView();
});
window.addEventListener("beforeprint", () => {
  document.querySelector("details").open = true;
  for (const picture of document.querySelectorAll("img")) picture.loading = "eager";
});
document.documentElement.classList.add("scripted");
sortCards();
