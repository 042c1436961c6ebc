// Shows openapi.json: one entry a route, with its parameters, an example and its schemas.
// Everything is set as text, so nothing in the document can become markup.

const reply = await fetch("/openapi.json");
const api = await reply.json();

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function resolved(schema) {
  const name = schema?.$ref?.split("/").pop();
  return name ? api.components.schemas[name] : schema;
}

function block(title, value) {
  return [element("h4", title), element("pre", JSON.stringify(value, null, 2))];
}

function route(path, method, operation) {
  const method_name = element("span", method.toUpperCase());
  method_name.className = "method";
  const summary = element("summary", "", method_name, element("code", path));
  const details = element("details", "", summary, element("p", operation.description));
  if (operation.parameters) details.append(...block("Parameters", operation.parameters));
  const request = resolved(operation.requestBody?.content["application/json"].schema);
  if (request?.examples) details.append(...block("Example", request.examples[0]));
  for (const sample of operation["x-codeSamples"] ?? []) {
    details.append(element("h4", sample.label), element("pre", sample.source));
  }
  if (request) details.append(...block("Request", request));
  const answer = resolved(operation.responses["200"]?.content?.["application/json"]?.schema);
  if (answer) details.append(...block("Answer", answer));
  return details;
}

const routes = Object.entries(api.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => route(path, method, operation)));
document.getElementById("routes").replaceChildren(...routes);
