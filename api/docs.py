"""A page that shows the OpenAPI document, whole in itself: it loads nothing from elsewhere."""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>jamjet-ray API</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
details{border:1px solid #ddd;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}summary{cursor:pointer}
b{display:inline-block;width:4.5rem}code,pre{background:#f5f5f5;border-radius:4px;padding:.1rem .3rem}
pre{overflow:auto;padding:.6rem}</style><h1>jamjet-ray API</h1>
<p>The whole document: <a href="openapi.json">openapi.json</a></p><div id="routes">Loading ...</div>
<script>
fetch("openapi.json").then(r => r.json()).then(doc => {
  const root = document.getElementById("routes"); root.textContent = "";
  const all = Object.entries(doc.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => [path, method, route]));
  for (const [path, method, route] of all) {
    const box = document.createElement("details"), head = document.createElement("summary");
    const verb = document.createElement("b"), where = document.createElement("code");
    verb.textContent = method.toUpperCase(); where.textContent = path;
    head.append(verb, where, " " + (route.description || "").split("\\n")[0]); box.append(head);
    const text = document.createElement("pre");
    text.textContent = JSON.stringify({access: route["x-access"], parameters: route.parameters,
      body: route.requestBody, answers: Object.fromEntries(Object.entries(route.responses)
      .map(([status, r]) => [status, r.description]))}, null, 2);
    box.append(text); root.append(box);
  }
});
</script></html>"""
