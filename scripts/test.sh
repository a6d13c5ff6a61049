#!/bin/sh
# The suite in two processes, since half of its time is waiting for servers: the tests of the Milvus server in the one,
# for there can be only one such server, and the others in the other, whose output comes at the end.
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
