def write(output, question, findings, results, config):
    for f in findings: print(f.inputs, f.target, f.figures["pearson"], f.gain.mean, f.grade)
    print(sum(r["seconds"] for r in results), sum(r["training_seconds"] for r in results))
