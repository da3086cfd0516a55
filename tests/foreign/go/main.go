// A foreign client: plain grpc-go with stubs made by protoc, knowing nothing of the daemons but their .proto files.
// It plays the programs that exist for this contract. Each scenario prints one line; any failure ends with exit code 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "nexus.dev/proto/agent/v1"
	gatewayv1 "nexus.dev/proto/gateway/v1"
	llmv1 "nexus.dev/proto/llm/v1"
	orchestratorv1 "nexus.dev/proto/orchestrator/v1"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

type client struct {
	socket string
	conn   *grpc.ClientConn
	orch   orchestratorv1.OrchestratorServiceClient
	agent  agentv1.AgentServiceClient
	llm    llmv1.LLMServiceClient
	gate   gatewayv1.GatewayServiceClient
	health healthv1.HealthClient
}

const maxMessage = 100 << 20

// The forms in which Go programs name a Unix socket. The first two put the path into `:authority`.
var forms = map[string]func(path string, options ...grpc.DialOption) (*grpc.ClientConn, error){
	"dial": func(path string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
		//nolint:staticcheck // existing clients dial so
		return grpc.DialContext(context.Background(), path, append(options, dialer())...)
	},
	"passthrough": func(path string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+path, append(options, dialer())...)
	},
	"unix": func(path string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
		return grpc.NewClient("unix://"+path, options...)
	},
}

func dialer() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	})
}

func connect(form, path string) (*client, error) {
	dial, known := forms[form]
	if !known {
		return nil, fmt.Errorf("no such form: %s", form)
	}
	conn, err := dial(path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	return &client{
		socket: path,
		conn:   conn,
		orch:   orchestratorv1.NewOrchestratorServiceClient(conn),
		agent:  agentv1.NewAgentServiceClient(conn),
		llm:    llmv1.NewLLMServiceClient(conn),
		gate:   gatewayv1.NewGatewayServiceClient(conn),
		health: healthv1.NewHealthClient(conn),
	}, nil
}

var scenarios = map[string]func(context.Context, *client) error{
	"authority": authority,
	"terminal":  terminal,
	"heartbeat": heartbeatFirst,
	"register":  register,
	"assistant": assistant,
	"worker":    worker,
	"unheard":   unheard,
	"health":    healthNames,
	"front":     frontDoor,
	"large":     large,
	"churn":     churn,
	"mistakes":  mistakes,
}

func main() {
	socket := flag.String("socket", "", "path of the orchestrator's socket")
	form := flag.String("form", "dial", "how the socket is named: dial, passthrough or unix")
	flag.Parse()
	failed := false
	for _, name := range flag.Args() {
		scenario, known := scenarios[name]
		if !known {
			fmt.Println("no such scenario:", name)
			os.Exit(2)
		}
		if err := run(scenario, *form, *socket); err != nil {
			fmt.Printf("FAILED %s (%s): %v\n", name, *form, err)
			failed = true
			continue
		}
		fmt.Printf("ok %s (%s)\n", name, *form)
	}
	if failed {
		os.Exit(1)
	}
}

func run(scenario func(context.Context, *client) error, form, socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	c, err := connect(form, socket)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	return scenario(ctx, c)
}
