#!/bin/sh
# Installs k2run from this folder into the environment .venv beside it; the system's Python stays as it is.
#
#   sh install.sh             the libraries, no broker: what an engineer on call wants
#   sh install.sh sandbox     and the programs of the embedded stack; any extra of pyproject.toml (postgres, browser, …)
#   sh install.sh dev         and all that the tests need
#
# Exit codes are k2run's: 0 installed, 2 an unknown word, 5 it could not be done. PYTHON names the Python to use.
set -u
cd "$(dirname "$0")" || exit 5
here=$(pwd)
words=$*
python=
with=

refuse() { # what is wrong, what to do next
  printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
  exit "${3:-5}"
}

wanted() { # what pip calls the words: extras in brackets, the development group by its name
  extras=
  group=
  for word in $words; do
    grep -q "^$word = \[" pyproject.toml || refuse "there is no extra '$word'" "see optional-dependencies in pyproject.toml" 2
    if [ "$word" = dev ]; then group=dev; else extras="$extras,$word"; fi
  done
  package=".${extras:+[${extras#,}]}"
}

find_python() {
  seen=
  for name in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
    version=$("$name" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue
    seen="$seen $name is $version;"
    "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$name && return
  done
  refuse "k2run needs Python 3.11 or newer with its module venv, and found none:${seen:- no Python at all}" \
    "install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python), or name it: PYTHON=/path/to/python3 sh install.sh $words"
}

make_environment() { # a usable one is kept; one whose folder was moved, or whose Python is gone, is made again
  [ -w . ] || refuse "the account $(id -u) cannot write in $here" "use a copy of your own, or ask who owns it: $(ls -ld .)"
  [ ! -e .venv ] || [ -w .venv ] || refuse "$here/.venv was made by another user" "$(ls -ld .venv); remove it, or use a copy of your own"
  [ -x .venv/bin/python ] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
    { [ ! -e .venv/bin/invoke ] || .venv/bin/invoke --version >/dev/null 2>&1; } && return
  "$python" -m venv --clear --without-pip .venv || refuse "$python cannot make an environment in $here/.venv" "see what it said above"
}

find_installer() { # this Python's pip can install into another environment; else pip is put into it; else uv
  into=.venv/bin/python
  if "$python" -m pip --python $into --version >/dev/null 2>&1; then
    with=pip_outside
  elif $into -m pip --version >/dev/null 2>&1 || $into -m ensurepip >/dev/null 2>&1; then
    with=pip_inside
  elif uv --version >/dev/null 2>&1; then
    with=uv_outside
  else
    refuse "$python has neither pip nor the means to install it" "Debian, Ubuntu: apt install python3-venv; then start this again"
  fi
  [ -z "$group" ] || { put 'pip>=25.1' && with=pip_inside; } # older ones know no groups
}

pip_outside() { "$python" -m pip --python $into install "$@"; }
pip_inside() { $into -m pip install "$@"; }
uv_outside() { uv pip install --python $into "$@"; }

put() { # byte code is written when it is first used: of what is installed, a run uses a fifth
  [ -w "${HOME:-/nonexistent}" ] || export PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
  [ -n "$group" ] || set -- --only-binary=:all: "$@" # do not compile for half an hour, without a compiler
  $with -q --no-compile "$@" >.venv/install.log 2>&1 || explain
}

explain() { # why it could not be installed, out of what pip said
  tail -n 12 .venv/install.log >&2
  if grep -qiE 'name resolution|connection (broken|refused)|connecttimeout|proxyerror|unreachable|establish a new|dns error' .venv/install.log; then
    refuse "no package registry could be reached from here" "the first start downloads about 120 MB: look at the network, or name a mirror in PIP_INDEX_URL"
  elif grep -qi 'no space left' .venv/install.log; then
    refuse "there is no room left for $here/.venv" "it needs about 450 MB"
  elif grep -qiE 'failed to build|failed building|no matching distribution|no solution found' .venv/install.log; then
    refuse "a package has no binary for $("$python" -c 'import platform as p; print("Python", p.python_version(), "on", p.system(), p.machine(), *p.libc_ver())')" \
      "there are some for Python 3.11 to 3.14 on Linux (glibc) and macOS, x86-64 and arm64: name such a Python with PYTHON=…"
  fi
  refuse "k2run could not be installed" "all that was said is in $here/.venv/install.log"
}

wanted
stamp="$here $package $group $(cksum <pyproject.toml)"
grep -qxF "$stamp" .venv/installed 2>/dev/null && .venv/bin/invoke --version >/dev/null 2>&1 && exit 0
find_python
make_environment
find_installer
echo "Installing k2run$(printf %s "$package" | tr -d .) ${group:+and what its tests need }into .venv, once"
put -e "$package" ${group:+--group "$group"}
# The way back here, relative: under an ASCII locale Python 3.11 and 3.12 do not start when it has letters beyond ASCII.
for path in .venv/lib/*/site-packages/*k2run.pth; do echo ../../../.. >"$path"; done
if [ -z "$group" ]; then
  # What no import needs: Arrow's headers and own tests, at 9 MB, and pip, until something else is wanted, at 13.
  for arrow in .venv/lib/*/site-packages/pyarrow; do rm -rf "$arrow/include" "$arrow/includes" "$arrow/src" "$arrow/tests"; done
  [ $with != pip_inside ] || $into -m pip uninstall -q -y pip
fi
echo "$stamp" >>.venv/installed
