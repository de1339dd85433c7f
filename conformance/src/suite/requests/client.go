// A client of crypto/tls: client PROTOCOL HOST PREFIX COUNT, where PROTOCOL is 1.1 or 2. GET and POST take turns.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func main() {
	protocol, host, prefix := os.Args[1], os.Args[2], os.Args[3]
	count, err := strconv.Atoi(os.Args[4])
	check(err)
	pem, err := os.ReadFile("/etc/ca.pem")
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	if protocol == "2" {
		transport.ForceAttemptHTTP2 = true
	} else {
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	client := &http.Client{Transport: transport}
	for number := 0; number < count; number++ {
		method, body := "GET", ""
		if number%2 == 1 {
			method, body = "POST", "x"
		}
		url := fmt.Sprintf("https://%s%s/%d", host, prefix, number)
		request, err := http.NewRequest(method, url, strings.NewReader(body))
		check(err)
		answer, err := client.Do(request)
		check(err)
		_, err = io.Copy(io.Discard, answer.Body)
		check(err)
		check(answer.Body.Close())
		if answer.StatusCode != 200 || !strings.HasPrefix(answer.Proto, "HTTP/"+protocol) {
			log.Fatalf("%s: %s over %s", url, answer.Status, answer.Proto)
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
