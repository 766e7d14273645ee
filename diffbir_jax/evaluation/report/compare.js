"use strict";
// Sliders, choices of pictures and a filter by name; #data has the pictures of each card.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const cards = [...document.querySelectorAll(".case")];
const imageOf = (card) => data.images[card.dataset.image];

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
byId("filter").addEventListener("input", filterCards);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("pixelated").addEventListener("change", (event) => {
  byId("cards").classList.toggle("pixelated", event.target.checked);
});
document.documentElement.classList.add("scripted");
