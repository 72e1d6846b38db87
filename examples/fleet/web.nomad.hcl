# SPDX-License-Identifier: BSD-3-Clause
# A Nomad job: Nomad starts, places and counts; uiod runs the VM. The client needs `plugin "raw_exec" { config { enabled = true } }`
# and uIO installed. What a task may use is said once, in [limits] of the configuration; `resources` tells the scheduler.
job "web" {
  datacenters = ["dc1"]
  type        = "service"

  group "web" {
    count = 3

    restart {
      attempts = 5
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    network {
      port "http" {}
    }

    task "uiod" {
      driver       = "raw_exec"
      kill_signal  = "SIGTERM" # stops the guest first
      kill_timeout = "30s"     # more than stop_timeout_s

      config {
        command = "/usr/bin/uiod"
        args    = ["start", "--runtime-dir", "${NOMAD_ALLOC_DIR}/uio", "${NOMAD_TASK_DIR}/web.cfg"]
      }

      artifact {
        source      = "https://images.example/web.tar.gz" # web.elf and web.dbg
        destination = "local"
        options {
          checksum = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
        }
      }

      template {
        destination = "local/web.cfg"
        data        = <<-CFG
          [vm]
          name = "web"
          kernel = "web.elf"
          symbols = "web.dbg"
          memory = "128M"
          [[net]]
          kind = "user"
          forward = ["tcp:{{ env "NOMAD_IP_http" }}:{{ env "NOMAD_PORT_http" }}-:80"]
          [uio]
          overlays = ["/usr/lib/uio/overlays"]
          [trust]
          keys = ["/etc/uio/keys"]
          [limits]
          memory = "192M"
          pids = 64
        CFG
      }

      service {
        name = "web"
        port = "http"
        check {
          name     = "guest answers"
          type     = "script"
          command  = "/usr/bin/uioctl"
          args     = ["--runtime-dir", "${NOMAD_ALLOC_DIR}/uio", "exec", "--timeout", "5s", "web", "uptime"]
          interval = "10s"
          timeout  = "10s"
        }
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
