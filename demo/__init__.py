"""The whole of Overworld on one machine: `make demo` and `make train`."""
