package main

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// check fails with what was expected, unless it holds.
func check(holds bool, format string, args ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf("expected "+format, args...)
}

// refused wants this status code, and a message that a person can use.
func refused(err error, code codes.Code) error {
	got := status.Convert(err)
	if got.Code() != code || (code != codes.OK && got.Message() == "") {
		return fmt.Errorf("expected %s with a message, got %s %q", code, got.Code(), got.Message())
	}
	return nil
}

func first(errors ...error) error {
	for _, err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}
