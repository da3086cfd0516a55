package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "nexus.dev/proto/agent/v1"
	orchestratorv1 "nexus.dev/proto/orchestrator/v1"
)

func (c *client) register(ctx context.Context, name, role string) (string, error) {
	request := &agentv1.RegisterRequest{Name: name, Type: agentv1.AgentType_AGENT_TYPE_WORKER}
	if role != "" {
		request.Metadata = &agentv1.AgentMetadata{Labels: map[string]string{"role": role}}
	}
	made, err := c.agent.Register(ctx, request)
	if err != nil {
		return "", err
	}
	return made.AgentId, first(
		check(made.AgentId != "", "an agent id"),
		check(made.RegistrationToken != "", "a registration token"),
		check(made.Agent.State == agentv1.AgentState_AGENT_STATE_IDLE, "IDLE, got %v", made.Agent.State))
}

func register(ctx context.Context, c *client) error {
	one, err := c.register(ctx, "worker-host", "")
	if err != nil {
		return err
	}
	two, err := c.register(ctx, "worker-host", "")
	if err != nil {
		return err
	}
	_, alive := c.agent.Heartbeat(ctx, &agentv1.HeartbeatRequest{AgentId: one})
	left, err := c.agent.Unregister(ctx, &agentv1.UnregisterRequest{AgentId: one, Reason: "done"})
	if err != nil {
		return err
	}
	_, gone := c.agent.Heartbeat(ctx, &agentv1.HeartbeatRequest{AgentId: one})
	_, nameless := c.agent.Register(ctx, &agentv1.RegisterRequest{})
	return first(alive,
		check(one != two, "two agents of one name"),
		check(left.Success && left.Message == "Agent unregistered: done", "the reason back, got %v", left),
		refused(gone, codes.NotFound), refused(nameless, codes.InvalidArgument))
}

// assistant answers a user in every form that existing assistants use: their clocks say 1970, and one of them puts the
// correlation id into the headers of the data instead of the message's metadata.
func assistant(ctx context.Context, c *client) error {
	id, err := c.register(ctx, "assistant", "assistant")
	if err != nil {
		return err
	}
	line, err := c.agent.StreamAgent(ctx)
	if err != nil {
		return err
	}
	if err := line.Send(&agentv1.StreamAgentRequest{AgentId: id}); err != nil {
		return err
	}
	// A stream has no answer to its first frame. A beat on it comes back only once the server has it.
	if err := line.Send(&agentv1.StreamAgentRequest{Payload: &agentv1.StreamAgentRequest_Heartbeat{}}); err != nil {
		return err
	}
	if _, err := line.Recv(); err != nil {
		return err
	}
	session, err := c.session(ctx)
	if err != nil {
		return err
	}
	talk, err := c.orch.StreamMessages(ctx)
	if err != nil {
		return err
	}
	replies := map[string]func(*agentv1.AgentMessage, string){
		"by metadata": func(m *agentv1.AgentMessage, correlation string) {
			m.Metadata = &agentv1.AgentMessageMetadata{SessionId: session, CorrelationId: correlation}
		},
		"by headers": func(m *agentv1.AgentMessage, correlation string) {
			m.GetDataMessage().Headers = map[string]string{"session_id": session, "correlation_id": correlation}
		},
		"as an error": func(m *agentv1.AgentMessage, correlation string) {
			m.Type = agentv1.MessageType_MESSAGE_TYPE_ERROR
			m.GetDataMessage().ContentType = "application/vnd.baaaht.conversation.error+text"
			m.Metadata = &agentv1.AgentMessageMetadata{SessionId: session, CorrelationId: correlation}
		},
	}
	for how, put := range replies {
		if err := talk.Send(user(session, "please answer "+how)); err != nil {
			return err
		}
		frame, err := line.Recv()
		if err != nil {
			return err
		}
		asked := frame.GetMessage()
		if err := first(
			check(asked != nil, "a message, got %v", frame),
			check(asked.GetSourceId() == "orchestrator", "the source orchestrator, got %q", asked.GetSourceId()),
			check(asked.GetTargetId() == id, "our id as target, got %q", asked.GetTargetId()),
			check(asked.GetMetadata().GetSessionId() == session, "the session's id, got %v", asked.GetMetadata()),
			check(asked.GetMetadata().GetCorrelationId() != "", "a correlation id"),
			check(string(asked.GetDataMessage().GetData()) == "please answer "+how, "the words, got %v", asked.GetDataMessage())); err != nil {
			return err
		}
		reply := &agentv1.AgentMessage{
			Id: "msg_" + how, Type: agentv1.MessageType_MESSAGE_TYPE_DATA, Timestamp: &timestamppb.Timestamp{},
			SourceId: id, TargetId: "orchestrator",
			Payload: &agentv1.AgentMessage_DataMessage{DataMessage: &agentv1.DataMessage{
				ContentType: "text/plain", Data: []byte("answered " + how),
			}},
		}
		put(reply, asked.Metadata.CorrelationId)
		if err := line.Send(&agentv1.StreamAgentRequest{AgentId: id, Payload: &agentv1.StreamAgentRequest_Message{Message: reply}}); err != nil {
			return err
		}
		answer, problem, err := shown(talk)
		if err != nil {
			return err
		}
		if how == "as an error" {
			err = check(strings.Contains(problem, "answered as an error"), "its text as an error, got %q %v", problem, answer)
		} else {
			err = first(
				check(problem == "", "an answer %s, got the error %q", how, problem),
				check(answer.GetContent() == "answered "+how, "the answer %s, got %v", how, answer),
				check(answer.GetRole() == orchestratorv1.MessageRole_MESSAGE_ROLE_ASSISTANT, "an assistant's, got %v", answer.GetRole()),
				check(answer.GetTimestamp().GetSeconds() > 0, "a true time, got %v", answer.GetTimestamp()))
		}
		if err != nil {
			return err
		}
	}
	if err := line.CloseSend(); err != nil {
		return err
	}
	if err := talk.Send(user(session, "is anybody there")); err != nil {
		return err
	}
	_, problem, err := shown(talk)
	return first(err, check(problem != "", "an error event once the assistant has left"))
}

func (c *client) task(ctx context.Context, agent, session string) (*agentv1.Task, error) {
	made, err := c.agent.ExecuteTask(ctx, &agentv1.ExecuteTaskRequest{
		AgentId: agent, SessionId: session, Type: agentv1.TaskType_TASK_TYPE_FILE_OPERATION,
		Config: &agentv1.TaskConfig{Command: "read", Arguments: []string{"/etc/hostname"}},
	})
	if err != nil {
		return nil, err
	}
	return made.Task, check(made.TaskId != "" && made.Task.State == agentv1.TaskState_TASK_STATE_PENDING, "PENDING, got %v", made)
}

// worker takes a task in the order of the existing worker: the first frame names it in a heartbeat, the later ones do
// not name it at all. Somebody else watches.
func worker(ctx context.Context, c *client) error {
	session, err := c.session(ctx)
	if err != nil {
		return err
	}
	id, err := c.register(ctx, "worker-host", "")
	if err != nil {
		return err
	}
	task, err := c.task(ctx, id, session)
	if err != nil {
		return err
	}
	beat, err := c.agent.Heartbeat(ctx, &agentv1.HeartbeatRequest{AgentId: id})
	if err := first(err, check(slices.Contains(beat.GetPendingTasks(), task.Id), "the task to be offered, got %v", beat)); err != nil {
		return err
	}
	watcher, err := opened(ctx, c, task.Id)
	if err != nil {
		return err
	}
	works, err := opened(ctx, c, task.Id)
	if err != nil {
		return err
	}
	says := []*agentv1.StreamTaskRequest{
		{Payload: &agentv1.StreamTaskRequest_Status{Status: &agentv1.TaskStatusUpdate{State: agentv1.TaskState_TASK_STATE_RUNNING}}},
		{Payload: &agentv1.StreamTaskRequest_Progress{Progress: &agentv1.TaskProgress{Percent: 0.5, Message: "half"}}},
		{Payload: &agentv1.StreamTaskRequest_Output{Output: &agentv1.TaskOutput{Text: "a line\n", StreamType: "stdout"}}},
		{Payload: &agentv1.StreamTaskRequest_Complete{Complete: &agentv1.TaskComplete{
			TaskId: task.Id, Result: &agentv1.TaskResult{OutputText: "all of it"}, CompletedAt: &timestamppb.Timestamp{},
		}}},
	}
	for _, frame := range says {
		if err := works.Send(frame); err != nil {
			return err
		}
	}
	var output, result string
	var percent float64
	for result == "" {
		frame, err := watcher.Recv()
		if err != nil {
			return fmt.Errorf("the watcher saw output %q, progress %v and then: %w", output, percent, err)
		}
		output += frame.GetOutput().GetText()
		percent = max(percent, frame.GetProgress().GetPercent())
		result = frame.GetComplete().GetResult().GetOutputText()
	}
	done, err := c.agent.GetTaskStatus(ctx, &agentv1.GetTaskStatusRequest{TaskId: task.Id})
	if err != nil {
		return err
	}
	return first(
		check(output == "a line\n" && result == "all of it" && percent == 0.5, "what the worker said, got %q %q %v", output, result, percent),
		check(done.Task.State == agentv1.TaskState_TASK_STATE_COMPLETED, "COMPLETED, got %v", done.Task.State),
		check(done.Task.CompletedAt.GetSeconds() > 0, "a true time of completion, got %v", done.Task.CompletedAt))
}

// opened is a StreamTask whose first frame, a heartbeat with the task's id, was answered.
func opened(ctx context.Context, c *client, task string) (agentv1.AgentService_StreamTaskClient, error) {
	stream, err := c.agent.StreamTask(ctx)
	if err != nil {
		return nil, err
	}
	beat := &agentv1.StreamTaskRequest{TaskId: task, Payload: &agentv1.StreamTaskRequest_Heartbeat{Heartbeat: &emptypb.Empty{}}}
	if err := stream.Send(beat); err != nil {
		return nil, err
	}
	for {
		frame, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if _, ok := frame.Payload.(*agentv1.StreamTaskResponse_Heartbeat); ok {
			return stream, nil
		}
	}
}

// unheard uses agents of any name and kind that never open a stream.
func unheard(ctx context.Context, c *client) error {
	made, err := c.agent.Register(ctx, &agentv1.RegisterRequest{Name: "whatever", Type: agentv1.AgentType_AGENT_TYPE_MONITOR})
	if err != nil {
		return err
	}
	task, err := c.task(ctx, made.AgentId, "no-such-session")
	if err != nil {
		return err
	}
	listed, err := c.agent.ListTasks(ctx, &agentv1.ListTasksRequest{AgentId: made.AgentId})
	if err != nil {
		return err
	}
	sent, err := c.agent.SendMessage(ctx, &agentv1.AgentSendMessageRequest{AgentId: made.AgentId, Message: &agentv1.AgentMessage{
		Type:    agentv1.MessageType_MESSAGE_TYPE_DATA,
		Payload: &agentv1.AgentMessage_DataMessage{DataMessage: &agentv1.DataMessage{Data: []byte("for later")}},
	}})
	if err != nil {
		return err
	}
	nobody, err := c.agent.ListTasks(ctx, &agentv1.ListTasksRequest{AgentId: "nobody"})
	if err != nil {
		return err
	}
	cancelled, err := c.agent.CancelTask(ctx, &agentv1.CancelTaskRequest{TaskId: task.Id})
	if err != nil {
		return err
	}
	line, err := c.agent.StreamAgent(ctx)
	if err != nil {
		return err
	}
	if err := line.Send(&agentv1.StreamAgentRequest{AgentId: made.AgentId}); err != nil {
		return err
	}
	kept, err := line.Recv()
	return first(err,
		check(len(listed.Tasks) == 1 && listed.Tasks[0].Id == task.Id, "the one task, got %v", listed),
		check(len(nobody.Tasks) == 0, "no tasks of nobody"),
		check(sent.MessageId != "", "a message id"),
		check(cancelled.Cancelled && cancelled.State == agentv1.TaskState_TASK_STATE_CANCELLED, "CANCELLED, got %v", cancelled),
		check(string(kept.GetMessage().GetDataMessage().GetData()) == "for later", "the kept message, got %v", kept))
}
