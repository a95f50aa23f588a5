// Locust creates the element that a tab names as its component; this fills it with the page of a run.

class Page extends HTMLElement {
  connectedCallback() {
    const frame = document.createElement("iframe");
    frame.src = "./llm?embedded";
    frame.title = "LLM";
    Object.assign(frame.style, { display: "block", width: "100%", height: "80vh", border: "0" });
    frame.addEventListener("load", () => {
      const main = frame.contentDocument.querySelector("main");
      if (!main) return; // the login page, once a session has ended
      const fit = () => (frame.style.height = `${main.offsetHeight}px`);
      new frame.contentWindow.ResizeObserver(fit).observe(main);
    });
    this.replaceChildren(frame);
  }
}

customElements.define("llmload-page", Page);

// Locust's form for editing a run closes even if the edit is refused, so the reason is shown here.
const locustsFetch = window.fetch;
window.fetch = async (...request) => {
  const editing = document.querySelector("[role=presentation] input[name=userCount]") !== null;
  const answer = await locustsFetch(...request);
  if (editing && new URL(answer.url).pathname.endsWith("/swarm")) {
    const { success, message } = await answer.clone().json();
    document.getElementById("llmload-refused")?.remove();
    if (!success) showRefusal(`Nothing was changed: ${message}`);
  }
  return answer;
};

function showRefusal(text) {
  const bar = document.createElement("div");
  bar.setAttribute("role", "alert");
  bar.id = "llmload-refused";
  bar.textContent = text;
  Object.assign(bar.style, {
    position: "fixed", inset: "auto 1rem 1rem", padding: "0.75rem 1rem", borderRadius: "4px", zIndex: 2000,
    background: "#d32f2f", color: "#fff", font: "1rem/1.5 Roboto, Helvetica, Arial, sans-serif", cursor: "pointer",
  });
  bar.addEventListener("click", () => bar.remove());
  document.body.append(bar);
}
