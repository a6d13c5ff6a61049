#!/bin/sh
# The demo: starts all four services on embedded stores, imports the gallery, searches it, and stops.
# Usage: demo/run.sh FOLDER_OF_THE_WENTU_COMMAND. KEEP=1 in the environment leaves the services running until Ctrl-C,
# DEMO_PORT chooses other ports.
set -eu
wentu=$1/wentu
port=${DEMO_PORT:-50050}
data=.demo
export WENTU_GATEWAY=127.0.0.1:$port WENTU_COLLECTION=gallery

mkdir -p "$data"
: >"$data/up.txt"
"$wentu" up --data "$data" --port "$port" >"$data/up.txt" &
up=$!
stop() {
    trap - EXIT INT TERM
    kill -INT $up 2>/dev/null || true
    wait $up || true
}
trap stop EXIT
# A shell that dies of a signal does not wait for its children.
trap 'exit 130' INT TERM

echo "Starting the four services ..."
until grep -q '^ready' "$data/up.txt"; do
    kill -0 $up 2>/dev/null || { trap - EXIT; wait $up; }
    sleep 0.2
done
cat "$data/up.txt"

"$wentu" import demo/gallery
"$wentu" search 海边的日落 -k 5
"$wentu" search 一杯咖啡 -k 5
"$wentu" search 可爱的小狗 -k 5
"$wentu" search 骑自行车的人 -k 5
"$wentu" search 过年 -k 10 --sheet "$data/sheet.png"
echo "The last result as a contact sheet: $data/sheet.png"
[ -n "${KEEP:-}" ] || exit 0

gateway=
[ "$port" = 50050 ] || gateway=" --gateway $WENTU_GATEWAY"
cat <<END

The services stay up until Ctrl-C. In another terminal, in this folder:
  $wentu search 一只猫 -c gallery$gateway
  $wentu import FOLDER -c mine$gateway
  $wentu search 海边 -c mine$gateway
END
trap 'exit 0' INT
wait $up
