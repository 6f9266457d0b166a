package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lookout-video/lookout/internal/testmodel"
)

// terminal opens a pseudo-terminal: what the program sees, and our end of it.
func terminal(t *testing.T) (theirs, ours *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	n := 0
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return theirs, ours
}

// A conversation in a terminal with the real weights of `make smollm2`: it
// prompts, answers, and remembers what was said. In 4 bits the first word of
// one answer hangs by a hair: sums in another order tip it.
func TestChatInATerminal(t *testing.T) {
	dir := testmodel.SmolLM2(t)
	theirs, ours := terminal(t)
	cmd := program(t, "chat", "--model", dir, "--precision", "fp32", "--max-tokens", "40")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	defer func() { _ = cmd.Process.Kill() }() // does nothing after Wait
	if err := ours.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	until := func(ok func(string) bool) {
		t.Helper()
		buf := make([]byte, 4096)
		for !ok(shown.String()) {
			n, err := ours.Read(buf)
			if err != nil {
				t.Fatalf("%v after %q", err, shown.String())
			}
			shown.Write(buf[:n])
		}
	}
	prompts := func(n int) func(string) bool {
		return func(s string) bool { return strings.Count(s, "> ") == n && strings.HasSuffix(s, "> ") }
	}
	until(prompts(1))
	for i, c := range []struct{ question, answer string }{{"What is the capital of France?", "Paris"}, {"And of Italy?", "Rome"}} {
		if _, err := ours.WriteString(c.question + "\n"); err != nil {
			t.Fatal(err)
		}
		until(prompts(i + 2))
		if answer := shown.String()[strings.LastIndex(shown.String(), c.question)+len(c.question):]; !strings.Contains(answer, c.answer) {
			t.Errorf("%q was answered %q", c.question, answer)
		}
	}
	t.Logf("%s", shown.String())
	if _, err := ours.Write([]byte{4}); err != nil { // the end of the input
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
