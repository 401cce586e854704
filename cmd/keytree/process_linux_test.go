package main

import "syscall"

// dieWithParent has the kernel end a process when the tests are killed. (It is
// bound to the thread that starts it; the Go runtime keeps its threads.)
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
