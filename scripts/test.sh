#!/bin/sh
# Runs the suite in two processes, since half of its time is waiting for servers. Only one Milvus server can run, so all
# tests that need it are in one process. The output of the other process is printed at the end.
set -u
python="$1/python"
log=$(mktemp)
"$python" -m pytest -m "not milvus" tests >"$log" 2>&1 &
others=$!
failed=0
"$python" -m pytest -m milvus tests || failed=1
wait $others || failed=1
cat "$log"
rm -f "$log"
exit $failed
