//go:build !linux

package regtest

import (
	"os"
	"syscall"
)

// Only Linux kills a child with its parent. Elsewhere a bchd whose parent is
// killed keeps running.
func childAttr() *syscall.SysProcAttr { return nil }

// Without a lock, two processes may build bchd at the same time, which costs
// time only.
func tryLock(*os.File) (bool, error) { return true, nil }
