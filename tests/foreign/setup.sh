#!/usr/bin/env bash
# Fetches what the foreign clients need and builds them, below target/foreign. Quick when nothing changed.
# What is missing is said at the end, once; the exit code is then 1. The suites that can run still do.
set -uo pipefail
cd "$(dirname "$0")"
here=$PWD
out=$(cd ../.. && pwd)/target/foreign
mkdir -p "$out/bin"
missing=()
GRPCURL=v1.9.4

# True if the stamp $1 was made from exactly these files.
same() {
    local stamp=$out/$1.stamp
    shift
    [ -f "$stamp" ] && [ "$(cat "$@" | cksum)" = "$(cat "$stamp")" ]
}
done_with() {
    local stamp=$out/$1.stamp
    shift
    cat "$@" | cksum >"$stamp"
}

python_client() {
    command -v python3 >/dev/null || { missing+=("python3"); return 1; }
    if ! { [ -x "$out/venv/bin/python" ] && same python python/requirements.txt; }; then
        python3 -m venv "$out/venv" || { missing+=("python3 with venv"); return 1; }
        "$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r python/requirements.txt \
            || { missing+=("the Python packages of requirements.txt"); return 1; }
        done_with python python/requirements.txt
    fi
    # grpcio-tools has a whole protoc inside: the Go stubs are made with it too.
    printf '#!/bin/sh\nexec "%s" -m grpc_tools.protoc "$@"\n' "$out/venv/bin/python" >"$out/bin/protoc"
    chmod 755 "$out/bin/protoc"
}

node_client() {
    command -v npm >/dev/null || { missing+=("node with npm"); return 1; }
    if ! { [ -d node/node_modules ] && same node node/package-lock.json; }; then
        (cd node && npm ci --silent --ignore-scripts) || { missing+=("the Node packages of package-lock.json"); return 1; }
        done_with node node/package-lock.json
    fi
}

go_client() {
    command -v go >/dev/null || { missing+=("go"); return 1; }
    if [ ! -x "$out/bin/grpcurl" ] || [ "$(cat "$out/grpcurl.version" 2>/dev/null)" != "$GRPCURL" ]; then
        GOBIN="$out/bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL" \
            || { missing+=("grpcurl $GRPCURL"); return 1; }
        echo "$GRPCURL" >"$out/grpcurl.version"
    fi
    if ! { [ -x "$out/bin/protoc-gen-go-grpc" ] && same go-tools go/go.sum; }; then
        (cd go && GOBIN="$out/bin" go install google.golang.org/protobuf/cmd/protoc-gen-go \
            google.golang.org/grpc/cmd/protoc-gen-go-grpc) || { missing+=("the Go modules of go.sum"); return 1; }
        done_with go-tools go/go.sum
    fi
    # The build of the client fetches nothing. The stubs that it replaces a module by need only a name at this point.
    mkdir -p "$out/go-stubs"
    [ -f "$out/go-stubs/go.mod" ] || printf 'module nexus.dev/proto\n\ngo 1.24\n' >"$out/go-stubs/go.mod"
    (cd go && go mod download) || { missing+=("the Go modules of go.sum"); return 1; }
    [ -x "$out/bin/protoc" ] || { missing+=("protoc (grpcio-tools has it)"); return 1; }
    "$here/go/build.sh" || { missing+=("a Go client that builds"); return 1; }
}

python_client
node_client
go_client
if [ ${#missing[@]} -gt 0 ]; then
    printf 'foreign: missing: %s\n' "${missing[@]}" >&2
    exit 1
fi
