"""The simulators that Overworld serves: one package each."""
