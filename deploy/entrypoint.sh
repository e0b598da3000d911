#!/bin/sh
# Runs `ais` in a container, and tells the engine by the exit code whether its work is done.
#
# A service that is asked to stop ends with 0. With that, Docker's `on-failure` leaves it where it is when the engine or the
# machine is started again. So what was stopped before its work was done ends with 143 here, 128 + SIGTERM, as a program does
# that knows nothing of the signal.

stopped=0
service=
trap 'stopped=143; [ -z "$service" ] || kill -TERM "$service" 2>/dev/null' TERM INT

exec 3<&0  # a shell gives what runs beside it no standard input of its own accord
ais "$@" <&3 3<&- &
service=$!
[ "$stopped" = 0 ] || kill -TERM "$service" 2>/dev/null
wait "$service"
code=$?
while kill -0 "$service" 2>/dev/null; do  # a signal ended the wait, the service has yet to end
  wait "$service"
  code=$?
done
[ "$code" != 0 ] || code=$stopped
exit "$code"
