#!/usr/bin/env bash
# Runs the command-line tests of cli.tst.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: run_cli.sh CHROMAMBA_BINARY SOURCE_ROOT [SECTION...]

Runs the cases of tests/app/cli.tst, all of them or those of the named sections. Each runs in
a fresh folder that holds the files of make_inputs.py. Prints a line for a case that fails or
is skipped, and what it expected; exit code 0 when none failed, 77 when none failed and every
case was skipped. CASE=regex picks cases by name.

A stanza of cli.tst is a name at the start of a line and, indented, its lines:

  $ COMMAND    run by bash -euo pipefail; several $ lines are one script. `chromamba` is the
               program, $L is "-m" and the small checkpoint, $PH and $PS are "-m" and those that read in both
               directions, $PS RC-equivariant; $models has all checkpoints
  exit N       exit code (default 0)
  err REGEX    a line of stderr; when N is not 0 it is the error line itself
  out REGEX    a line of stdout (repeatable); without one a failing command may print nothing
  talk         notes may stand before the error line: the run had started
  keep NAME    a file that the command makes; any other that is new, changed or gone is a failure

When N is not 0, stderr must be one line that starts "chromamba: error: " (1, 3), "chromamba:
usage error: " (2) or "chromamba: stopped by signal " (128 and more), and nothing after it.
TEXT
}

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
CHROMAMBA=$(realpath "$1")
root=$(realpath "$2")
shift 2
here=$root/tests/app

work=$(mktemp -d "${TMPDIR:-/tmp}/chromamba_cli.XXXXXX")
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
chmod 755 "$work"  # for as_nobody
export PYTHONDONTWRITEBYTECODE=1
/usr/bin/python3 "$here/make_inputs.py" "$work" "$root/test_data"

models=$work/models
L="-m $models/mamba1_long"
COMPARE=$here/compare.py
PH="-m $models/caduceus_ph"
PS="-m $models/caduceus_ps"
export CHROMAMBA models L PH PS COMPARE

# --- What the commands of cli.tst may call. ---

chromamba() { "$CHROMAMBA" "$@"; }

# compare same A.h5 B.h5, and so on: see compare.py.
compare() { /usr/bin/python3 "$COMPARE" "$@"; }

# The table without the lines that name the input.
values_of() { grep -v '^# input: ' "$1"; }

skip_case() { # REASON
  echo "$1" >../skipped
  exit 0
}

# Starts the program with its signals as a shell has them, waits until its outputs are being
# written, sends the signal, and returns the program's exit code.
stopped_by() { # SIGNAL ARGUMENT...
  local signal=$1 tries=0 pid code=0
  shift
  env --default-signal=INT,TERM,HUP "$CHROMAMBA" "$@" &
  pid=$!
  until compgen -G '.*.tmp' >/dev/null; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ] || ! kill -0 $pid 2>/dev/null; then
      echo "stopped_by: no output was begun"
      break
    fi
    sleep 0.05
  done
  sleep 0.2
  kill -s "$signal" $pid || true
  wait $pid || code=$?
  return $code
}

# Runs a script with a small file system of its own mounted on the folder disk; whatever happens,
# it is gone when the script ends. What the script leaves there, but for the file "filler", is
# reported as left over. Works as root, and as anybody where user namespaces are allowed.
on_disk() { # SIZE SCRIPT
  local as=(unshare --mount)
  [ "$(id -u)" -eq 0 ] || as=(unshare --user --map-root-user --mount)
  mkdir disk
  "${as[@]}" mount -t tmpfs -o "size=$1" tmpfs disk 2>/dev/null || skip_case "no tmpfs can be mounted here"
  local code=0
  # shellcheck disable=SC2016
  SCRIPT=$2 "${as[@]}" bash -c '
    mount -t tmpfs -o "size=$0" tmpfs disk || exit 99
    bash -euo pipefail -c "$SCRIPT"
    code=$?
    ls -A disk | grep -vxF -e filler -e kept.bw >../left_on_disk
    exit $code' "$1" || code=$?
  rmdir disk
  return $code
}

# Starts the program, takes all the space of the folder disk away once the outputs are begun, and
# returns the program's exit code.
while_disk_fills() { # ARGUMENT...
  local pid code=0 tries=0
  "$CHROMAMBA" "$@" &
  pid=$!
  until compgen -G 'disk/.*.tmp' >/dev/null || [ $tries -gt 600 ]; do
    tries=$((tries + 1))
    sleep 0.05
  done
  dd if=/dev/zero of=disk/filler bs=4k 2>/dev/null || true
  wait $pid || code=$?
  return $code
}

# Runs a command as somebody whom the permissions of a folder stop.
as_nobody() { # COMMAND...
  if [ "$(id -u)" -ne 0 ]; then
    "$@"
    return
  fi
  local as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  "${as[@]}" "$CHROMAMBA" --version >/dev/null 2>&1 ||
    skip_case "the user nobody cannot run $CHROMAMBA"
  "${as[@]}" "$@"
}

export -f chromamba compare values_of skip_case stopped_by on_disk while_disk_fills as_nobody

# --- The runner. ---

passed=0
failed=0
skipped=0

state_of() { (cd "$1" && find . -mindepth 1 -printf '%P\t%s\t%T@\n' | sort); }

run_case() {
  local folder=$work/case/files failures=() code=0 line
  if [ -n "${CASE:-}" ] && ! grep -qE -- "$CASE" <<<"$name"; then return; fi
  if [ -e "$work/case" ]; then chmod -R u+w "$work/case"; fi  # some cases close a folder
  rm -rf "$work/case"
  mkdir "$work/case"
  chmod 755 "$work/case"
  cp -r --preserve=timestamps "$work/files" "$folder"
  state_of "$folder" >"$work/case/before"
  local leaks=
  if [ "$expected_code" -ne 0 ]; then leaks=suppressions=$here/lsan.supp:print_suppressions=0; fi
  (cd "$folder" && LSAN_OPTIONS=$leaks exec timeout -k 10 900 bash -euo pipefail -c "$command") \
    >"$work/case/out" 2>"$work/case/err" </dev/null || code=$?
  if [ -e "$work/case/skipped" ]; then
    echo "SKIPPED  [$section] $name: $(cat "$work/case/skipped")"
    skipped=$((skipped + 1))
    return
  fi
  state_of "$folder" >"$work/case/after"

  [ "$code" -eq "$expected_code" ] || failures+=("exit code $code, expected $expected_code")
  local last
  last=$(tail -n 1 "$work/case/err")
  if [ "$expected_code" -ne 0 ]; then
    local start='chromamba: error: '
    if [ "$expected_code" -eq 2 ]; then start='chromamba: usage error: '; fi
    if [ "$expected_code" -gt 128 ]; then start="chromamba: stopped by signal $((expected_code - 128))"; fi
    case $last in
      "$start"*) ;;
      *) failures+=("the last line of stderr does not start with '$start'") ;;
    esac
    if [ "$talk" = no ] && [ "$(wc -l <"$work/case/err")" -ne 1 ]; then
      failures+=("stderr has $(wc -l <"$work/case/err") lines, expected 1")
    fi
    if [ "$(grep -cE '^chromamba: (usage error|error|internal error|stopped)' "$work/case/err")" -gt 1 ]; then
      failures+=("stderr has several error lines")
    fi
    if grep -qv '^chromamba: ' "$work/case/err"; then
      failures+=("stderr has a line that does not start with 'chromamba: '")
    fi
    if [ -n "$err" ] && ! grep -qE -- "$err" <<<"$last"; then
      failures+=("the error line does not match: $err")
    fi
    if [ ${#out[@]} -eq 0 ] && [ -s "$work/case/out" ]; then failures+=("stdout is not empty"); fi
  else
    if grep -qE 'error|terminate called' "$work/case/err"; then failures+=("stderr has an error"); fi
    if [ -n "$err" ] && ! grep -qE -- "$err" "$work/case/err"; then
      failures+=("no line of stderr matches: $err")
    fi
  fi
  for line in "${out[@]}"; do
    grep -qE -- "$line" "$work/case/out" || failures+=("no line of stdout matches: $line")
  done
  for line in "${keep[@]}"; do
    if [ ! -e "$folder/$line" ]; then failures+=("$line was not made"); fi
  done
  while IFS=$'\t' read -r line _; do
    case " ${keep[*]-} " in *" $line "*) continue ;; esac
    failures+=("left over, changed or gone: $line")
  done < <(comm -3 "$work/case/before" "$work/case/after" | sed 's/^\t//' | sort -u -t$'\t' -k1,1)
  if [ -s "$work/case/left_on_disk" ]; then
    failures+=("left over on the small disk: $(tr '\n' ' ' <"$work/case/left_on_disk")")
  fi

  if [ ${#failures[@]} -eq 0 ]; then
    passed=$((passed + 1))
    return
  fi
  failed=$((failed + 1))
  echo "FAILED   [$section] $name"
  printf "    $ %s\n" "${command//$'\n'/$'\n    $ '}"
  printf '    %s\n' "${failures[@]}"
  tail -n 15 "$work/case/err" | cut -c1-500 | sed 's/^/    stderr: /'
  tail -n 15 "$work/case/out" | cut -c1-500 | sed 's/^/    stdout: /'
}

section=
name=
reset() {
  name=
  command=
  expected_code=0
  err=
  talk=no
  out=()
  keep=()
}

finish_stanza() {
  if [ -n "$name" ] && [ "$wanted" = yes ]; then
    [ -n "$command" ] || { echo "cli.tst: '$name' has no command" >&2; exit 2; }
    run_case
  fi
  reset
}

reset
wanted=no
found=' '
while IFS= read -r line || [ -n "$line" ]; do
  case $line in
    '#'* | '') ;;
    '['*']')
      finish_stanza
      section=${line#[}
      section=${section%]}
      found+="$section "
      wanted=no
      if [ $# -eq 0 ]; then wanted=yes; fi
      for word in "$@"; do
        if [ "$word" = "$section" ]; then wanted=yes; fi
      done
      ;;
    '  $ '*) command+=${command:+$'\n'}${line#'  $ '} ;;
    '  exit '*) expected_code=${line#'  exit '} ;;
    '  err '*) err=${line#'  err '} ;;
    '  out '*) out+=("${line#'  out '}") ;;
    '  keep '*) keep+=("${line#'  keep '}") ;;
    '  talk') talk=yes ;;
    ' '*) echo "cli.tst: cannot read the line: $line" >&2; exit 2 ;;
    *)
      finish_stanza
      name=$line
      ;;
  esac
done <"$here/cli.tst"
finish_stanza
for word in "$@"; do
  case $found in *" $word "*) ;; *) echo "cli.tst has no section $word" >&2; exit 2 ;; esac
done

echo "command line: $passed passed, $failed failed, $skipped skipped"
if [ "$failed" -gt 0 ]; then exit 1; fi
if [ "$passed" -eq 0 ]; then
  if [ "$skipped" -gt 0 ]; then exit 77; fi
  echo "no case was run" >&2
  exit 2
fi
