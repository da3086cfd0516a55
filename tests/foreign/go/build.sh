#!/usr/bin/env bash
# Makes the Go stubs from proto/ and builds the Go client. Fetches nothing.
set -euo pipefail
cd "$(dirname "$0")"
out=$(cd ../../.. && pwd)/target/foreign
gen=$out/go-stubs
mkdir -p "$gen"
if [ ! -f "$gen/stamp" ] || [ "$(cat ../../../proto/*.proto go.sum | cksum)" != "$(cat "$gen/stamp")" ]; then
    printf 'module nexus.dev/proto\n\ngo 1.24\n' >"$gen/go.mod"
    PATH="$out/bin:$PATH" "$out/bin/protoc" -I ../../../proto \
        --go_out="$gen" --go_opt=module=nexus.dev/proto \
        --go-grpc_out="$gen" --go-grpc_opt=module=nexus.dev/proto \
        ../../../proto/*.proto
    cat ../../../proto/*.proto go.sum | cksum >"$gen/stamp"
fi
GOFLAGS=-mod=readonly GOPROXY=off go build -o "$out/bin/foreign-go" .
