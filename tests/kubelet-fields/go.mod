module nodebootstrap.io/kubelet-fields

go 1.26.0
