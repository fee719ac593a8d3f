"""What goes over the wire, recorded: that a server answers today as it did when the traces were made.

Each `<simulator>.jsonl.gz` is one conversation with `overworld serve <simulator>`, a call per line: the request as it
was sent, and the answer, or the status with which it was refused. `test_traces.py` sends the same requests to a server
of today and compares every field of every answer. `zcat` shows a trace; after a change of behaviour that is meant,

    python -m tests.traces.record [simulator ...]

records it again, and `diff <(git show HEAD:tests/traces/webshop.jsonl.gz | zcat) <(zcat tests/traces/webshop.jsonl.gz)`
is what a reviewer should see. `script.py` decides what is said; `wire.py` lists the fields that are left out.
"""
