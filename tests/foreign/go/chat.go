package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	orchestratorv1 "nexus.dev/proto/orchestrator/v1"
)

func user(session, text string) *orchestratorv1.StreamMessageRequest {
	return &orchestratorv1.StreamMessageRequest{
		SessionId: session,
		Payload: &orchestratorv1.StreamMessageRequest_Message{Message: &orchestratorv1.Message{
			Role: orchestratorv1.MessageRole_MESSAGE_ROLE_USER, Content: text,
		}},
	}
}

func (c *client) session(ctx context.Context) (string, error) {
	made, err := c.orch.CreateSession(ctx, &orchestratorv1.CreateSessionRequest{
		Metadata: &orchestratorv1.SessionMetadata{Name: "tui-session", Labels: map[string]string{"client": "tui"}},
	})
	if err != nil {
		return "", err
	}
	return made.SessionId, first(
		check(made.SessionId != "", "a session id"),
		check(made.Session.GetMetadata().GetName() == "tui-session", "the metadata back, got %v", made.Session),
		check(made.Session.State == orchestratorv1.SessionState_SESSION_STATE_ACTIVE, "ACTIVE, got %v", made.Session.State))
}

// shown is the first frame that the terminal client would show: an assistant's message or an error.
func shown(stream orchestratorv1.OrchestratorService_StreamMessagesClient) (*orchestratorv1.Message, string, error) {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return nil, "", err
		}
		switch p := frame.Payload.(type) {
		case *orchestratorv1.StreamMessageResponse_Message:
			if p.Message.Role == orchestratorv1.MessageRole_MESSAGE_ROLE_USER {
				return nil, "", fmt.Errorf("the user's own words came back: %q", p.Message.Content)
			}
			return p.Message, "", nil
		case *orchestratorv1.StreamMessageResponse_Event:
			if text := p.Event.Data["error"]; text != "" {
				return nil, text, nil
			}
		}
	}
}

// terminal does what the terminal client does, with nobody there to answer: the stream opens at the start and stays
// silent until Enter, nothing is read before the first message, and an error event ends the reading until the next one.
func terminal(ctx context.Context, c *client) error {
	id, err := c.session(ctx)
	if err != nil {
		return err
	}
	open, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := c.orch.StreamMessages(open)
	if err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // the user thinks
	for _, text := range []string{"first", "second", "third"} {
		if err := stream.Send(user(id, text)); err != nil {
			return err
		}
		answer, problem, err := shown(stream)
		if err := first(err, check(answer == nil && problem != "", "an error event for %q, got %v", text, answer)); err != nil {
			return err
		}
	}
	listed, err := c.orch.ListSessions(ctx, &orchestratorv1.ListSessionsRequest{})
	if err != nil {
		return err
	}
	for _, session := range listed.Sessions {
		if session.Metadata == nil {
			return fmt.Errorf("session %s has no metadata", session.Id)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if err != io.EOF {
		return fmt.Errorf("the half-closed stream should end well: %w", err)
	}
	closed, err := c.orch.CloseSession(ctx, &orchestratorv1.CloseSessionRequest{SessionId: id})
	if err != nil {
		return err
	}
	got, err := c.orch.GetSession(ctx, &orchestratorv1.GetSessionRequest{SessionId: id})
	if err != nil {
		return err
	}
	bare, err := c.orch.CreateSession(ctx, &orchestratorv1.CreateSessionRequest{})
	return first(err,
		check(closed.State == orchestratorv1.SessionState_SESSION_STATE_CLOSED, "CLOSED, got %v", closed.State),
		check(len(got.Session.Context.Messages) == 3, "the three messages to be kept, got %d", len(got.Session.Context.Messages)),
		check(bare.GetSession().GetMetadata() != nil, "metadata in the answer though none was sent"),
		check(bare.GetSessionId() != "", "a session without metadata"))
}

// heartbeatFirst beats before the first message: with the session's id, with and without the empty message inside.
func heartbeatFirst(ctx context.Context, c *client) error {
	id, err := c.session(ctx)
	if err != nil {
		return err
	}
	stream, err := c.orch.StreamMessages(ctx)
	if err != nil {
		return err
	}
	beats := []*orchestratorv1.StreamMessageRequest{
		{Payload: &orchestratorv1.StreamMessageRequest_Heartbeat{}},
		{SessionId: id, Payload: &orchestratorv1.StreamMessageRequest_Heartbeat{}},
		{SessionId: id, Payload: &orchestratorv1.StreamMessageRequest_Heartbeat{Heartbeat: &emptypb.Empty{}}},
	}
	for n, beat := range beats {
		if err := stream.Send(beat); err != nil {
			return err
		}
		frame, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("heartbeat %d: %w", n, err)
		}
		if _, ok := frame.Payload.(*orchestratorv1.StreamMessageResponse_Heartbeat); !ok {
			return fmt.Errorf("heartbeat %d was answered with %v", n, frame)
		}
	}
	if err := stream.Send(user(id, "after the beats")); err != nil {
		return err
	}
	_, problem, err := shown(stream)
	return first(err, check(problem != "", "the message to be answered"))
}

// mistakes wants a clear status for what a client gets wrong, and a server that goes on.
func mistakes(ctx context.Context, c *client) error {
	_, unknown := c.orch.GetSession(ctx, &orchestratorv1.GetSessionRequest{SessionId: "nobody"})
	_, missing := c.orch.GetSession(ctx, &orchestratorv1.GetSessionRequest{})
	id, err := c.session(ctx)
	if err != nil {
		return err
	}
	_, empty := c.orch.SendMessage(ctx, &orchestratorv1.SendMessageRequest{SessionId: id})
	stream, err := c.orch.StreamMessages(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(user("", "to nobody")); err != nil {
		return err
	}
	_, nameless := stream.Recv()
	late, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	waiting, err := c.orch.SubscribeEvents(late, &orchestratorv1.SubscribeEventsRequest{
		Filter: &orchestratorv1.EventFilter{SessionId: "nobody"},
	})
	if err != nil {
		return err
	}
	_, deadline := waiting.Recv()
	unimplemented := c.conn.Invoke(ctx, "/orchestrator.v1.OrchestratorService/Nothing", &emptypb.Empty{}, &emptypb.Empty{})
	_, after := c.orch.GetSession(ctx, &orchestratorv1.GetSessionRequest{SessionId: id})
	return first(
		refused(unknown, codes.NotFound), refused(missing, codes.InvalidArgument), refused(empty, codes.InvalidArgument),
		refused(nameless, codes.InvalidArgument), refused(deadline, codes.DeadlineExceeded),
		refused(unimplemented, codes.Unimplemented), after)
}
