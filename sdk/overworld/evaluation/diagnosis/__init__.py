"""Why an agent fails: `overworld diagnose`. docs/diagnose.md says what follows from what."""
