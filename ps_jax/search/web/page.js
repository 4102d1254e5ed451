"use strict";
// The page of `search.py serve`. Everything that comes from files is set as text, never as HTML.
const byId = id => document.getElementById(id);
const canvas = byId("picture"), draw = canvas.getContext("2d"), form = byId("filter");
const BOX = "#2654a0", DRAWN = "#c82828";
let picture = null;  // {bytes, image, width, height, people}
let queries = [];  // {query, tile}
let drag = null, turn = 0;

function say(text, wrong = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("wrong", wrong);
}

async function ask(path, body, type) {
  const answer = await fetch(path, {method: "POST", body, headers: {"Content-Type": type}});
  const content = await answer.json().catch(() => ({error: `the server answered ${answer.status}`}));
  if (!answer.ok) throw new Error(content.error);
  return content;
}

const element = (name, properties = {}, children = []) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

async function show(file) {
  const mine = ++turn;
  say("looking for people ...");
  try {
    const people = await ask("people", file, "application/octet-stream");
    const image = element("img", {src: people.image});
    await image.decode();
    if (mine !== turn) return;
    picture = {...people, bytes: file, image};
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    paint();
    say(`${people.people.length} people: click one, or draw a box around somebody`);
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

function paint() {
  const scale = canvas.width / picture.width;
  draw.drawImage(picture.image, 0, 0);
  draw.lineWidth = 3;
  draw.font = "bold 18px system-ui, sans-serif";
  picture.people.forEach(({box: [x1, y1, x2, y2]}, index) => {
    draw.strokeStyle = draw.fillStyle = BOX;
    draw.strokeRect(x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale);
    const number = String(index + 1);
    draw.fillRect(x1 * scale, y1 * scale, draw.measureText(number).width + 10, 24);
    draw.fillStyle = "#fff";
    draw.fillText(number, x1 * scale + 5, y1 * scale + 19);
  });
  if (drag) {
    draw.strokeStyle = DRAWN;
    draw.strokeRect(drag.x1, drag.y1, drag.x2 - drag.x1, drag.y2 - drag.y1);
  }
}

function place(event) {
  const area = canvas.getBoundingClientRect();
  return [(event.clientX - area.left) * canvas.width / area.width,
          (event.clientY - area.top) * canvas.height / area.height];
}

canvas.addEventListener("pointerdown", event => {
  if (!picture) return;
  const [x, y] = place(event);
  drag = {x1: x, y1: y, x2: x, y2: y};
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", event => {
  if (!drag) return;
  [drag.x2, drag.y2] = place(event);
  paint();
});
canvas.addEventListener("pointerup", () => {
  if (!drag) return;
  const scale = picture.width / canvas.width;
  const xs = [drag.x1, drag.x2].sort((a, b) => a - b), ys = [drag.y1, drag.y2].sort((a, b) => a - b);
  const drawn = xs[1] - xs[0] > 5 && ys[1] - ys[0] > 5;
  const x = drag.x1 * scale, y = drag.y1 * scale;
  drag = null;
  paint();
  if (drawn) return pick([xs[0], ys[0], xs[1], ys[1]].map(value => value * scale));
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  const hit = picture.people.map(({box}) => box)
    .filter(([x1, y1, x2, y2]) => x >= x1 && x < x2 && y >= y1 && y < y2)
    .sort((a, b) => area(a) - area(b))[0];
  if (hit) pick(hit);
});

async function pick(box) {
  say("searching ...");
  try {
    const query = await ask(`query?box=${box.join(",")}`, picture.bytes, "application/octet-stream");
    queries = form.elements.together.checked ? [...queries, query] : [query];
    showQueries();
    await search();
  } catch (error) {
    say(error.message, true);
  }
}

function showQueries() {
  byId("queries").replaceChildren(...queries.map((query, index) => element("figure", {}, [
    element("button", {title: "take this one out", onclick: () => {
      queries.splice(index, 1);
      showQueries();
      search();
    }}, [element("img", {src: query.tile, alt: `query ${index + 1}`})]),
  ])));
}

async function search() {
  const mine = ++turn;
  if (!queries.length) return byId("answers").replaceChildren();
  const when = name => form.elements[name].value ? Date.parse(form.elements[name].value) / 1000 : null;
  try {
    const {answers} = await ask("search", JSON.stringify({
      queries: queries.map(({query}) => query),
      least_score: Number(form.elements.score.value), after: when("after"), before: when("before"),
      context: form.elements.context.checked,
    }), "application/json");
    if (mine !== turn) return;
    byId("answers").replaceChildren(...answers.map(card));
    say(`${answers.length} answers, the most similar first`);
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

function card(answer, index) {
  const person = answer.tile
    ? element("button", {title: "the whole scene", onclick: () => {
        const dialog = byId("scene");
        dialog.querySelector("img").src = answer.scene;
        dialog.querySelector("p").textContent = answer.place;
        dialog.showModal();
      }}, [element("img", {src: answer.tile, alt: `answer ${index + 1}`})])
    : element("div", {className: "gone", textContent: "the file is gone or has changed"});
  const lines = [`similarity ${answer.similarity.toFixed(3)}`, `score ${answer.score.toFixed(2)}`, answer.time, answer.name];
  const caption = element("figcaption", {title: answer.place}, [element("b", {textContent: index + 1})]);
  for (const line of lines) caption.append(element("div", {textContent: line}));
  return element("figure", {className: "answer"}, [person, caption]);
}

form.addEventListener("change", event => event.target.name !== "together" && search());
form.addEventListener("submit", event => event.preventDefault());
byId("file").addEventListener("change", event => event.target.files[0] && show(event.target.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, event => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
  });
}
fetch("about").then(answer => answer.json()).then(about => { byId("about").textContent = about.words; });
