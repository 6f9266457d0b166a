package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	goredis "github.com/redis/go-redis/v9"
)

// fixes says, for the errors that an operator can mend, what is wrong and what
// mends it, by how the server's message begins.
var fixes = []struct{ prefix, says string }{
	{"OOM", "it is out of memory: raise its maxmemory, or lower max_len or max_age"},
	{"READONLY", "it is a read-only replica: use the primary's address, or addrs of the Sentinels with sentinel_master"},
	{"LOADING", "it is still loading its data: this ends by itself"},
	{"MOVED", "it is a node of a cluster: list two or more of its nodes in addrs"},
	{"ASK", "it is a node of a cluster: list two or more of its nodes in addrs"},
	{"CLUSTERDOWN", "its cluster is not complete: see CLUSTER INFO"},
	{"MASTERDOWN", "it is a replica that lost its primary: see INFO replication"},
	{"NOREPLICAS", "it has too few replicas to accept writes: see its min-replicas-to-write"},
	{"MISCONF", "it cannot save to disk and so accepts no writes: see its log and disk space"},
	{"NOAUTH", "it wants a password: set password, and username for an ACL user"},
	{"WRONGPASS", "the user name or password is wrong"},
	{"ERR Client sent AUTH", "it has no password set, but one was sent: remove password"},
	{"NOPERM", "the ACL user lacks a permission: docs/redis.md has the rule that Lookout needs"},
	{"WRONGTYPE", "a key that Lookout needs holds something else: choose another prefix"},
	{"ERR max number of clients", "it has too many clients: raise its maxclients"},
	{"ERR unknown command", "it does not know a command that Lookout needs: Redis 5 or newer with Streams and Lua is needed"},
	{"ERR DB index is out of range", "it has no such database"},
	{"BUSY", "it is busy with a script: SCRIPT KILL ends that"},
}

// explain adds to err which server it came from and what mends it.
func (c *Client) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("redis at %s: %s: %s%w", c.target, what, c.fix(err), err)
}

func (c *Client) fix(err error) string {
	var (
		re  goredis.Error
		dns *net.DNSError
		op  *net.OpError
		ua  x509.UnknownAuthorityError
		hn  x509.HostnameError
		rec tls.RecordHeaderError
		inv x509.CertificateInvalidError
	)
	says, text := "", err.Error()
	switch {
	case errors.As(err, &inv) && inv.Reason == x509.Expired:
		says = "its certificate has expired, or this machine's clock is wrong"
	case strings.Contains(text, "tls: certificate required"), strings.Contains(text, "tls: bad certificate"), strings.Contains(text, "tls: unknown certificate authority"):
		says = "it wants a client certificate that it trusts: set cert_file and key_file"
	case errors.As(err, &ua):
		says = "its certificate is not of a known authority: set ca_file"
	case errors.As(err, &hn):
		says = "its certificate is for another name: use that name as the address, or set server_name"
	case errors.As(err, &rec):
		says = "it does not speak TLS on this port: use redis:// in place of rediss://, or its TLS port"
	case errors.As(err, &dns):
		says = "the host name is not known: check the address"
	case errors.Is(err, syscall.ECONNREFUSED):
		says = "nothing listens there: start redis-server, or check the address"
	case errors.Is(err, syscall.ENOENT):
		says = "the socket does not exist: start redis-server, or check the path"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		says = "it did not answer in time: it may be stopped, overloaded or behind a firewall"
		if c.tls { // a plain server waits for the end of the line
			says += ", or speak no TLS on this port (then use redis:// in place of rediss://)"
		}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		says = "it closed the connection: it may be restarting, or speak TLS only (rediss://)"
	case strings.Contains(text, "all sentinels") && errors.Is(err, goredis.Nil):
		return "the Sentinels do not know this primary: check sentinel_master: "
	case errors.As(err, &re):
		for _, f := range fixes {
			// A script's error has the command's error after its own words.
			if strings.HasPrefix(text, f.prefix) || strings.Contains(text, " "+f.prefix+" ") ||
				f.prefix == "NOPERM" && strings.Contains(text, "can't run this command") {
				says = f.says
				break
			}
		}
	case errors.As(err, &op) && op.Op == "dial":
		says = "it cannot be reached: check the address and the network"
	}
	if says == "" {
		return ""
	}
	if strings.Contains(text, "all sentinels") {
		// What is told of "it" was told of a Sentinel; their passwords are their own.
		says = "its Sentinels: " + strings.NewReplacer("set password, and username for", "set sentinel_password, and sentinel_username for",
			"the user name or password is wrong", "sentinel_username or sentinel_password is wrong").Replace(says)
	}
	return says + ": "
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
