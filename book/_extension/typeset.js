// Runs inside the engine that formulas.py starts, after the parts of MathJax: what is called from Python.
const { TeX } = MathJax._.input.tex_ts;
const { SVG } = MathJax._.output.svg_ts;
const { TeXFont } = MathJax._.output.svg.fonts.tex_ts;
const { SerializedMmlVisitor } = MathJax._.core.MmlTree.SerializedMmlVisitor;
const { STATE } = MathJax._.core.MathItem;

const adaptor = MathJax._.adaptors.liteAdaptor.liteAdaptor();
MathJax._.handlers.html_ts.RegisterHTMLHandler(adaptor);
const input = new TeX({
  packages: ["base", "ams", "newcommand", "boldsymbol", "textmacros"],
  formatError(jax, error) {
    throw new Error(error.message);
  },
});
const output = new SVG({ font: new TeXFont({}), fontCache: "global" });
const page = MathJax._.mathjax.mathjax.document("", { InputJax: input, OutputJax: output });
const spoken = new SerializedMmlVisitor();

// A drawing and the MathML of a formula, or what is wrong with it; once drawn, the outlines of its letters are known.
function typeset(tex, display) {
  try {
    const drawing = adaptor.outerHTML(adaptor.firstChild(page.convert(tex, { display })));
    const mathml = spoken.visitTree(page.convert(tex, { display, end: STATE.CONVERT }));
    return JSON.stringify({ drawing, mathml });
  } catch (error) {
    return JSON.stringify({ fault: String(error.message) });
  }
}

function outlines() {
  return adaptor.outerHTML(output.fontCache.getCache());
}
