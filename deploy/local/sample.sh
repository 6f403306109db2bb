#!/usr/bin/env bash
# Samples CPU, memory and load of this machine from /proc: one line of extended JSON each, as `sluice send` reads them.
#
#   deploy/local/sample.sh [COUNT [SECONDS_BETWEEN]]      default: 50 samples, 0.1 s apart
set -euo pipefail
export TZ=UTC0 LC_ALL=C

count=${1:-50}
between=${2:-0.1}
host=$(cat /proc/sys/kernel/hostname)

# ticks: sets total and idle, the machine's CPU time so far in clock ticks.
ticks() {
  local user nice system wait irq softirq steal _
  read -r _ user nice system idle wait irq softirq steal _ </proc/stat
  idle=$((idle + wait))
  total=$((user + nice + system + idle + irq + softirq + steal))
}

ticks
for ((n = 1; n <= count; n++)); do
  before_total=$total before_idle=$idle
  sleep "$between"
  ticks
  passed=$((total - before_total))
  permille=$((passed > 0 ? 1000 * (passed - (idle - before_idle)) / passed : 0))
  memory=$(awk '/^MemTotal:/ {t = $2} /^MemAvailable:/ {a = $2} END {printf "%d", (t - a) / 1024}' /proc/meminfo)
  read -r load _ </proc/loadavg
  now=$EPOCHREALTIME
  printf '{"at":{"$date":"%(%Y-%m-%dT%H:%M:%S)T.%.3sZ"},"host":"%s","n":%d,"cpu_percent":%d.%d,"memory_mib":%d,"load":%s}\n' \
    "${now%.*}" "${now#*.}" "$host" "$n" $((permille / 10)) $((permille % 10)) "$memory" "$load"
done
