package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	orchestratorv1 "nexus.dev/proto/orchestrator/v1"
)

// large passes 64 MiB both ways, and wants a named limit for more than 100 MiB.
func large(ctx context.Context, c *client) error {
	id, err := c.session(ctx)
	if err != nil {
		return err
	}
	text := strings.Repeat("0123456789abcdef", 4<<20)
	system := func(text string) error {
		_, err := c.orch.SendMessage(ctx, &orchestratorv1.SendMessageRequest{SessionId: id, Message: &orchestratorv1.Message{
			Role: orchestratorv1.MessageRole_MESSAGE_ROLE_SYSTEM, Content: text,
		}})
		return err
	}
	if err := system(text); err != nil {
		return err
	}
	got, err := c.orch.GetSession(ctx, &orchestratorv1.GetSessionRequest{SessionId: id})
	if err != nil {
		return err
	}
	messages := got.Session.Context.Messages
	if len(messages) != 1 || messages[0].Content != text {
		return fmt.Errorf("64 MiB went in and %d messages came out, not the same", len(messages))
	}
	// The client's own limit is lifted so that the server's is what refuses.
	big, err := forms["dial"](c.socket, insecureOption(), bigOption())
	if err != nil {
		return err
	}
	defer big.Close()
	_, err = orchestratorv1.NewOrchestratorServiceClient(big).SendMessage(ctx, &orchestratorv1.SendMessageRequest{
		SessionId: id, Message: &orchestratorv1.Message{Role: orchestratorv1.MessageRole_MESSAGE_ROLE_SYSTEM, Content: text + text},
	})
	return first(refused(err, codes.ResourceExhausted), system("still there"))
}

// churn makes the header table turn over: 2,000 calls with 300 keys in rotation and values that change.
func churn(ctx context.Context, c *client) error {
	for n := range 2000 {
		key := fmt.Sprintf("x-rotating-%d", n%300)
		call := metadata.AppendToOutgoingContext(ctx, key, strings.Repeat("v", n%97)+fmt.Sprint(n), "x-same", "always")
		_, err := c.orch.GetSession(call, &orchestratorv1.GetSessionRequest{SessionId: "nobody"})
		if status.Code(err) != codes.NotFound {
			return fmt.Errorf("call %d: %w", n, err)
		}
	}
	return nil
}

// healthNames checks the names that existing clients ask for. Those of the daemons behind the front door are known even
// while those daemons are not there.
func healthNames(ctx context.Context, c *client) error {
	for _, name := range []string{"", "orchestrator", "agent", "tool", "orchestrator.v1.OrchestratorService", "agent.v1.AgentService"} {
		answer, err := c.health.Check(ctx, &healthv1.HealthCheckRequest{Service: name})
		if err := first(err, check(answer.GetStatus() == healthv1.HealthCheckResponse_SERVING, "SERVING for %q, got %v", name, answer)); err != nil {
			return err
		}
	}
	for _, name := range []string{"gateway", "llm"} {
		if _, err := c.health.Check(ctx, &healthv1.HealthCheckRequest{Service: name}); err != nil {
			return err
		}
	}
	_, err := c.health.Check(ctx, &healthv1.HealthCheckRequest{Service: "nobody"})
	if err := refused(err, codes.NotFound); err != nil {
		return err
	}
	watching, err := c.health.Watch(ctx, &healthv1.HealthCheckRequest{Service: "nobody"})
	if err != nil {
		return err
	}
	seen, err := watching.Recv()
	return first(err, check(seen.GetStatus() == healthv1.HealthCheckResponse_SERVICE_UNKNOWN, "SERVICE_UNKNOWN, got %v", seen))
}
