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

// A dot's image is marked in every plot.
function mark(event) {
  const image = event.target.dataset?.image;
  for (const dot of document.querySelectorAll("circle.marked")) dot.classList.remove("marked");
  if (image !== undefined)
    for (const dot of document.querySelectorAll(`circle[data-image="${image}"]`)) dot.classList.add("marked");
}

byId("metric").addEventListener("change", sortCards);
byId("order").addEventListener("change", sortCards);
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
sortCards();
