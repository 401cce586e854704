//go:build !unix

package postgrestest

import "os/exec"

// Without a shell, a cluster is not started here.
func group(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }
