// Locust makes the element that a tab names as its component; this fills it with the page of charts.

class Charts extends HTMLElement {
  connectedCallback() {
    const frame = document.createElement("iframe");
    frame.src = "./llm?embedded";
    frame.title = "LLM charts";
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

customElements.define("llmload-charts", Charts);
