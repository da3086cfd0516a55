package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	orchestratorv1 "nexus.dev/proto/orchestrator/v1"
)

// authority puts a wire tap between client and server: the path really goes out as `:authority`, and is answered.
func authority(ctx context.Context, c *client) error {
	dir, err := os.MkdirTemp("", "tap")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, form := range []string{"dial", "passthrough"} {
		path := filepath.Join(dir, form+".sock")
		listener, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		defer listener.Close()
		tap := &tap{}
		go tap.serve(listener, c.socket)
		conn, err := forms[form](path, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := orchestratorv1.NewOrchestratorServiceClient(conn).ListSessions(ctx, &orchestratorv1.ListSessionsRequest{}); err != nil {
			return fmt.Errorf("%s: %w", form, err)
		}
		sent, err := tap.authority()
		if err != nil {
			return err
		}
		if want := url.PathEscape(path); sent != want {
			return fmt.Errorf("%s sent the authority %q instead of %q: this proves nothing", form, sent, want)
		}
	}
	return nil
}

type tap struct {
	mu   sync.Mutex
	sent bytes.Buffer
}

func (t *tap) Write(data []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent.Write(data)
}

func (t *tap) serve(listener net.Listener, upstream string) {
	for {
		from, err := listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("unix", upstream)
		if err != nil {
			from.Close()
			return
		}
		go func() {
			io.Copy(io.MultiWriter(to, t), from)
			to.Close()
		}()
		go func() {
			io.Copy(from, to)
			from.Close()
		}()
	}
}

// authority decodes the first request's headers from the recorded bytes.
func (t *tap) authority() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	bytesSent := bytes.TrimPrefix(t.sent.Bytes(), []byte(http2.ClientPreface))
	framer := http2.NewFramer(io.Discard, bytes.NewReader(bytesSent))
	framer.ReadMetaHeaders = hpackDecoder()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return "", fmt.Errorf("no request on the wire: %w", err)
		}
		if headers, ok := frame.(*http2.MetaHeadersFrame); ok {
			return headers.PseudoValue("authority"), nil
		}
	}
}
