def render_report(run, texts, labels): return "<html></html>"
