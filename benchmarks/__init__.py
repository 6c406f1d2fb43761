"""Speed and memory, measured by commands that anybody can run; figures are in docs/benchmarks.md."""
