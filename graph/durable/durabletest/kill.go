package durabletest

import "os"

// Kill kills this process, as kill -9 does. It does not return.
func Kill() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {} // the kill comes
}
