package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	gatewayv1 "nexus.dev/proto/gateway/v1"
	llmv1 "nexus.dev/proto/llm/v1"
)

func hpackDecoder() *hpack.Decoder { return hpack.NewDecoder(4096, nil) }

func insecureOption() grpc.DialOption {
	return grpc.WithTransportCredentials(insecure.NewCredentials())
}

func bigOption() grpc.DialOption {
	return grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1 << 30))
}

// frontDoor speaks to the model daemon and the gateway at the orchestrator's address, with everything running.
func frontDoor(ctx context.Context, c *client) error {
	for _, name := range []string{"llm", "gateway"} {
		answer, err := c.health.Check(ctx, &healthv1.HealthCheckRequest{Service: name})
		if err := first(err, check(answer.GetStatus() == healthv1.HealthCheckResponse_SERVING, "%s SERVING, got %v", name, answer)); err != nil {
			return err
		}
	}
	if err := model(ctx, c); err != nil {
		return fmt.Errorf("llm.v1: %w", err)
	}
	if err := gateway(ctx, c); err != nil {
		return fmt.Errorf("gateway.v1: %w", err)
	}
	return nil
}

// model asks for answers of many lengths: each must come whole, however its pieces fall.
func model(ctx context.Context, c *client) error {
	for n := 1; n <= 60; n++ {
		asked := &llmv1.LLMRequest{
			RequestId: fmt.Sprintf("req_%d_go", n),
			Messages: []*llmv1.LLMMessage{
				{Role: "system", Content: "Be brief."},
				{Role: "user", Content: fmt.Sprintf("count to %d", n)},
			},
			Parameters: &llmv1.LLMParameters{MaxTokens: 4096, Temperature: 0.7},
		}
		if err := whole(ctx, c, asked); err != nil {
			return fmt.Errorf("%s: %w", asked.Messages[1].Content, err)
		}
	}
	return nil
}

func whole(ctx context.Context, c *client, asked *llmv1.LLMRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.llm.StreamLLM(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&llmv1.StreamLLMRequest{Payload: &llmv1.StreamLLMRequest_Request{Request: asked}}); err != nil {
		return err
	}
	// Some clients close their side at once, some after the end.
	if len(asked.Messages[1].Content)%2 == 0 {
		if err := stream.CloseSend(); err != nil {
			return err
		}
	}
	var text strings.Builder
	for {
		frame, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("before complete: %w", err)
		}
		if failure := frame.GetError(); failure != nil {
			return fmt.Errorf("%s: %s", failure.Code, failure.Message)
		}
		text.WriteString(frame.GetChunk().GetContent())
		if done := frame.GetComplete(); done != nil {
			return first(
				check(text.Len() > 0, "content in chunks"),
				check(done.GetResponse().GetContent() == text.String(), "the same text at the end, got %q", done.GetResponse().GetContent()))
		}
	}
}

func gateway(ctx context.Context, c *client) error {
	made, err := c.gate.CreateGatewaySession(ctx, &gatewayv1.CreateGatewaySessionRequest{
		Metadata: &gatewayv1.GatewaySessionMetadata{Name: "web-session", ClientType: "web", UserId: "user-123"},
		Config: &gatewayv1.GatewaySessionConfig{
			EnableStreaming: true, StreamConfig: &gatewayv1.StreamConfig{ChunkSize: 1024, EnableDelta: true},
		},
	})
	if err != nil {
		return err
	}
	stream, err := c.gate.StreamChat(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&gatewayv1.StreamChatRequest{
		SessionId: made.SessionId,
		Payload: &gatewayv1.StreamChatRequest_Message{Message: &gatewayv1.GatewayMessage{
			Role: gatewayv1.GatewayMessageRole_GATEWAY_MESSAGE_ROLE_USER, Content: "Hello!",
		}},
	}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var text strings.Builder
	final := false
	for {
		frame, err := stream.Recv()
		if err == io.EOF {
			return first(check(final, "a final chunk, got %q", text.String()), check(text.Len() > 0, "some text"))
		}
		if err != nil {
			return err
		}
		text.WriteString(frame.GetChunk().GetText())
		final = final || frame.GetChunk().GetIsFinal()
		if state := frame.GetStatus(); state.GetState() == gatewayv1.StreamState_STREAM_STATE_ERROR {
			return fmt.Errorf("the stream failed: %s", state.Message)
		}
	}
}
